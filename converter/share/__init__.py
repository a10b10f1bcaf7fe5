"""Sharing: what is stored once and used often."""
