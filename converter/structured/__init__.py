"""What structured pruning, by shares or to a budget, is made of."""
