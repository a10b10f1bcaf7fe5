"""Signatures of several lengths and batches over one set of weights."""
