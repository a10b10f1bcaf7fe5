"""ONNX graph rewrites: one a file."""
