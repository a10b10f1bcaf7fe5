"""Adapters (LoRA and its kin), loaded by PEFT over the base that lies beside them or that they name."""

import json
import tempfile
from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.owner.contract import ADAPTER_FILE, NotAvailable
from converter.owner.load import load_auto

WEIGHTS = "adapter_model.safetensors"


def load_adapted(folder: Path, auto_class: str) -> tuple[Any, str]:
    """Return the base model with its adapter, and the name and version of PEFT.

    Raises:
        NotAvailable: PEFT is not installed, or the base is not on this machine.
        SourceError: the adapter's weights are no safetensors.

    """
    try:
        import peft
    except ImportError:
        raise NotAvailable(f"{ADAPTER_FILE}: peft, which applies adapters, is not installed") from None
    if not (folder / WEIGHTS).is_file():
        raise SourceError(f"there is {ADAPTER_FILE}, but no {WEIGHTS}", where=str(folder))
    try:
        model = peft.PeftModel.from_pretrained(_base(folder, auto_class), str(folder))
    except KeyError:
        # By the task PEFT expects a head in the adapter; without one the base's own head is the model's.
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.task_type = None
        model = peft.PeftModel.from_pretrained(_base(folder, auto_class), str(folder), config=config)
    return model.eval(), f"peft {peft.__version__}"


def _base(folder: Path, auto_class: str) -> Any:
    if has_base_beside(folder):
        # transformers would follow the adapter to the base that it names: here that lies beside it.
        with tempfile.TemporaryDirectory() as alone:
            for file in folder.iterdir():
                if file.is_file() and file.name not in {ADAPTER_FILE, WEIGHTS}:
                    (Path(alone) / file.name).symlink_to(file.resolve())
            return load_auto(Path(alone), auto_class)
    return load_auto(named_base(folder), auto_class)


def has_base_beside(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(f.name != WEIGHTS for f in folder.glob("*.safetensors"))


def named_base(folder: Path) -> Path:
    """Return the folder of the base that an adapter names.

    Raises:
        NotAvailable: it is not on this machine.

    """
    named = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
    places = [Path(named), folder / named, folder.parent / Path(named).name]
    found = next((p for p in places if named and (p / "config.json").is_file()), None)
    if found is None:
        raise NotAvailable(f"{ADAPTER_FILE} names the base {named!r}, which is not on this machine")
    return found


def tokenizer_folder(folder: Path) -> Path:
    """Return where the tokenizer lies: an adapter alone may leave it to its base."""
    alone = (folder / ADAPTER_FILE).is_file() and not has_base_beside(folder)
    return named_base(folder) if alone and not (folder / "tokenizer_config.json").is_file() else folder
