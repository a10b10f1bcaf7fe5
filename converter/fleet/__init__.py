"""Many models in one call: each its own process, here or on a Ray cluster."""
