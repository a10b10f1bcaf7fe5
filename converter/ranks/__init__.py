"""Several processes that train one model: what the first tells the others, and what they do."""
