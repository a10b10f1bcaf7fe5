"""Trimming: what of a model its texts never touch."""
