"""One file, one technique. A stage is found by its file's name; the file holds one frozen dataclass."""
