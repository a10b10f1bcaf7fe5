"""The ONNX file: exported, rewritten, quantized and run."""
