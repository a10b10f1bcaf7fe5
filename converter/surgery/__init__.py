"""What trimming, pruning, sharing and distilling do to modules alike."""
