"""Text in: evaluation and calibration files, probes, token ids."""
