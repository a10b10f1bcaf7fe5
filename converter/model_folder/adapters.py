"""LoRA and its kin: an adapter beside its base model, or alone with the base named, merged into the weights by PEFT."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from converter.errors import ExportError
from converter.jsonfile import read_table
from converter.model_folder.causes import refusal
from converter.model_folder.fields import AdapterSettings, check_fields
from converter.model_folder.links import check_links
from converter.model_folder.locate import encoder_folder_of, locate
from converter.model_folder.said import first_line
from converter.model_folder.weights_header import stored_in

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNMERGED = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "XLORA", "POLY"}
)
"""Kinds that add tokens or layers of their own, not something to the weights."""
TASKS = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}
HEADS = {**dict.fromkeys(("SEQ_CLS", "TOKEN_CLS"), ("classifier", "score")), "QUESTION_ANS": ("qa_outputs",)}
"""Modules that PEFT saves whole with adapters of these tasks, whether or not their configuration says so."""


@dataclass(frozen=True)
class Adapter:
    """An adapter and the folder of the model that it changes."""

    folder: Path
    base: Path
    saved_whole: tuple[str, ...]
    """Modules that it brings whole, such as a classifier (`modules_to_save`)."""
    task: str | None

    def brings(self, name: str) -> bool:
        """Tell whether a weight of the model comes from the adapter."""
        return any(part in self.saved_whole for part in name.split("."))

    @contextmanager
    def base_alone(self) -> Iterator[Path]:
        """The base model's files without the adapter, which transformers would load on its own account."""
        with TemporaryDirectory(prefix="plm-base-") as made:
            for file in self.base.iterdir():
                if file.is_file() and not file.name.startswith("adapter_"):
                    (Path(made) / file.name).symlink_to(file.resolve())
            yield Path(made)

    def labels(self) -> int | None:
        """Count the classes of a classifier that the adapter brings; None where it brings none."""
        from safetensors import safe_open

        with safe_open(self.folder / WEIGHTS, framework="pt") as opened:
            sizes = [
                opened.get_slice(name).get_shape()[0]
                for name in opened.keys()  # noqa: SIM118 - it is no dict
                if name.endswith((".out_proj.weight", "classifier.weight", "score.weight")) and "lora" not in name
            ]
        return sizes[-1] if sizes and self.task in {"text-classification", "token-classification"} else None

    def merged(self, module: "torch.nn.Module") -> "torch.nn.Module":
        """Return the base model with the adapter merged into its weights.

        Raises:
            SourceError: the adapter does not fit the model.

        """
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict
        from safetensors.torch import load_file

        try:
            given = set(load_file(self.folder / WEIGHTS))
            config = PeftConfig.from_pretrained(str(self.folder))
            if not any(self.brings(name) for name in given):
                config.task_type = None  # for which PEFT would look for a head that was not trained
            wrapped = PeftModel.from_pretrained(module, str(self.folder), config=config, torch_device="cpu")
            wanted = set(get_peft_model_state_dict(wrapped))
            merged: torch.nn.Module = wrapped.merge_and_unload()
        except Exception as error:  # noqa: BLE001 - PEFT has its own errors for each kind
            raise refusal("adapter-damaged", self.folder, {"detail": first_line(error)}) from None
        for odd in sorted(wanted ^ given):
            detail = f"it lacks {odd}" if odd in wanted else f"it holds {odd}, which the model does not take"
            raise refusal("adapter-damaged", self.folder, {"detail": detail})
        return merged


def find_adapter(folder: Path) -> Adapter | None:
    """Return the adapter that lies in `folder`, None where there is none.

    Raises:
        SourceError: it cannot be merged; says why and what to do.

    """
    if not (folder / CONFIG).is_file():
        return None
    table = read_table(folder / CONFIG)
    check_fields(table, AdapterSettings, folder / CONFIG)
    kind = str(table.get("peft_type"))
    if kind in UNMERGED:
        raise refusal("adapter-kind", folder, {"kind": kind})
    try:
        import peft  # noqa: F401
    except ImportError:
        raise refusal("adapter-without-peft", folder, {"kind": kind}) from None
    if not (folder / WEIGHTS).is_file():
        raise refusal("adapter-damaged", folder, {"detail": f"{WEIGHTS} is missing; a pickle is never opened"})
    stored_in([folder / WEIGHTS])
    return Adapter(
        folder=folder,
        base=folder if (folder / "config.json").is_file() else _base(folder, table),
        saved_whole=tuple(map(str, table.get("modules_to_save") or HEADS.get(str(table.get("task_type")), ()))),
        task=TASKS.get(str(table.get("task_type"))),
    )


def local_base(folder: Path, named: str) -> Path | None:
    """Return the folder of the base that an adapter names, where it is on this machine: as named, or beside it."""
    places = (Path(named), folder / named, folder.parent / Path(named).name)
    return next((p for p in places if named and p.is_dir()), None)


def _base(folder: Path, table: dict[str, Any]) -> Path:
    """Return the base's folder: as it is named, beside the adapter, or from the Hub."""
    named = str(table.get("base_model_name_or_path") or "")
    beside = local_base(folder, named)
    try:
        base = beside.resolve() if beside else locate(named, table.get("revision"))[0]
    except ExportError:
        raise refusal("adapter-without-base", folder, {"base": named}) from None
    check_links(base)
    return encoder_folder_of(base)
