"""What logits decide, and scores against gold labels."""
