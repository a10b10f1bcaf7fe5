"""The library that a model folder's owner uses, asked with raw text as its owner asks it."""
