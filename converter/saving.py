"""A `TorchModel` to a folder that loads again."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converter.artifact import TorchModel


def save_model(model: "TorchModel", folder: Path) -> None:
    """Write config, safetensors, tokenizer and shape map."""
    model.module.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    model.tokenizer.save_pretrained(folder)
    if model.shape_map is not None:
        model.shape_map.save(folder)
