"""From an image to labels: the levels that stages edit, and what lies between them."""
