"""What a TFLite package that writes text carries beside the model: tokenizer tables, samples, and their proof."""
