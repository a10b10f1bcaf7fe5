"""A model on disk: found, read, and written again."""
