"""Distillation: one method a file."""
