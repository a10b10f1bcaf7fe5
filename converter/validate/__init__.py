"""The proof: reference, metrics, gate."""
