"""The text side of a run: vocabularies, templates, the prompts made of them, and the embeddings of the prompts."""
