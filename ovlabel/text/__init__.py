"""What is asked of the model: vocabularies, templates, prompts, and their embeddings."""
