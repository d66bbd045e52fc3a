"""A run: which images it is about, what makes two runs the same, and how the work is done."""
