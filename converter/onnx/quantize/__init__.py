"""What the ONNX quantizers are made of."""
