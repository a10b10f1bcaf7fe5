"""A sealed folder: manifest, golden vectors, README, verification."""
