"""What comes from outside is read in bounded amounts and shown as printable text; a run takes bounded resources."""
