"""A tokenizer as tables that a few lines of any language read: how they are made, and those lines in Python."""
