"""How long packages take, alone and beside each other."""
