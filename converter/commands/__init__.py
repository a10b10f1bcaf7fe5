"""The commands of `plm-export`, one a file. None imports torch or a runtime at its top: `--help` answers at once."""
