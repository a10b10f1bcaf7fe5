"""A model on disk: read whole, or refused by name."""
