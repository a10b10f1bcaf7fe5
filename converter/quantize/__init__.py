"""Quantization: one method a file."""
