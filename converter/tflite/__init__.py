"""PyTorch to TFLite: the module that is traced, the file it becomes, and how the file is run."""
