"""PyTorch to a TFLite file in float32."""
