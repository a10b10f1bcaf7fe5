"""transformers' Auto classes, from safetensors alone."""

from pathlib import Path
from typing import Any


def load_auto(folder: Path, auto_class: str) -> Any:
    """Load a transformers model from safetensors alone, in float32 and evaluation mode."""
    import torch
    import transformers

    return (
        getattr(transformers, auto_class)
        .from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, local_files_only=True
        )
        .eval()
    )
