"""A search over compression, training, precision and target for the package that meets a goal best."""
