"""Targets: each emits its package and opens it again."""
