"""Where heads, FFNs, layers and embeddings of an architecture live: one family a file."""
