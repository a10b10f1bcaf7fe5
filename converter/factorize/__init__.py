"""Low rank: one large matrix as the product of two smaller ones."""
