"""Sample models: recipes that run as they stand, and the small code that makes the models they name."""
