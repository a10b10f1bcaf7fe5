"""What stages made, kept by what it was made from, and taken from there by later runs."""
