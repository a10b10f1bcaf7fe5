"""Text out: the one loop over named graphs, what ends it, and what a model's folder says about both."""
