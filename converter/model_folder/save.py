"""A `TorchModel` to a folder that `load_source` opens again, with the same weights to the last bit."""

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
Its layers have fewer heads or neurons than `config.json` says: `shape_map.json` lists those that are kept, and
`plm-export FOLDER --target …` opens it. `transformers` alone does not."""
STAND_INS = """
Some of its modules were replaced by smaller, shared or adaptive ones: `stand_ins.json` lists them, and
`plm-export FOLDER --target …` opens it. `transformers` alone does not."""
PLAIN = "`transformers` opens it as it is."


def save_model(model: "TorchModel", folder: Path) -> None:
    """Write weights, configuration, tokenizer, sentence-transformers modules and, where pruned, the shape map.

    `folder` is made where it is absent; it must not hold another model.
    """
    from converter.model_folder.files import write_model_files
    from converter.model_folder.licence import write_notices
    from converter.model_folder.replacement_map import StandIns
    from converter.model_folder.replacements import own_state

    folder.mkdir(parents=True, exist_ok=True)
    stand_ins = StandIns.of(model.module)
    if stand_ins.ties:
        model.module.save_pretrained(folder, state_dict=own_state(model.module))  # type: ignore[operator]
    else:
        model.module.save_pretrained(folder)  # type: ignore[operator]
    if not stand_ins.is_empty:
        stand_ins.save(folder)
    write_model_files(model, folder, {})
    if model.shape_map is not None:
        model.shape_map.save(folder)
    write_notices(model.card, folder)
    licence = f"license: {model.provenance.licence}\n" if model.provenance.licence else ""
    shape = (PRUNED if model.shape_map is not None else "") + ("" if stand_ins.is_empty else STAND_INS) or PLAIN
    card = CARD.format(licence=licence, id=model.provenance.id, shape=shape)
    (folder / "README.md").write_text(card, encoding="utf-8")
