"""What the TFLite quantizers are made of."""
