"""A `TorchModel` to a folder that `load_source` opens again, answering the same to the last bit."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converter.artifact import TorchModel

CARD = """---
{licence}base_model: {id}
---

# {id}, compressed

Weights (safetensors), configuration and tokenizer of a model that `plm-export` made smaller.
{shape}
"""
PRUNED = """
Its layers have fewer heads or neurons than `config.json` says: `shape_map.json` lists those that are left, and
`plm-export FOLDER --target …` opens it. `transformers` alone does not."""
PLAIN = "`transformers` opens it as it is."


def save_model(model: "TorchModel", folder: Path) -> None:
    """Write weights, configuration, tokenizer, sentence-transformers modules and, where pruned, the shape map.

    `folder` is made where it is absent; it must not hold another model.
    """
    from converter.layout import write_model_files

    folder.mkdir(parents=True, exist_ok=True)
    model.module.save_pretrained(folder)  # type: ignore[operator]
    write_model_files(model, folder, {})
    if model.shape_map is not None:
        model.shape_map.save(folder)
    licence = f"license: {model.provenance.licence}\n" if model.provenance.licence else ""
    shape = PLAIN if model.shape_map is None else PRUNED
    card = CARD.format(licence=licence, id=model.provenance.id, shape=shape)
    (folder / "README.md").write_text(card, encoding="utf-8")
