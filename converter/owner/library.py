"""Which library the owner of a folder uses, and that library with the folder open."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError
from converter.model_folder.locate import encoder_folder_of, sentence_modules
from converter.model_folder.replacement_map import FILE_NAME as STAND_INS_FILE
from converter.model_folder.shape_map import FILE_NAME as SHAPE_FILE
from converter.owner.auto import AutoLibrary, QuestionLibrary
from converter.owner.contract import NotAvailable, OwnerLibrary, first_line
from converter.owner.sentence import CrossEncoderLibrary, SentenceLibrary, TokenLibrary

if TYPE_CHECKING:
    from converter.task import Task

POOLING = {"Pooling", "StaticEmbedding", "Router", "BoW", "WordEmbeddings"}
"""Modules of which at least one makes a vector a text."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def open_library(folder: Path, task: "Task", max_length: int, prompt: str | None = None) -> OwnerLibrary:
    """Open `folder` (the root of the model) in the library of its owner.

    `max_length` is used where nothing in the folder states a limit; `prompt` names one of the folder's prompts.

    Raises:
        NotAvailable: the library is not installed, or the folder is of a format that is ours alone.
        SourceError: the library refuses the folder.

    """
    encoder = encoder_folder_of(folder)
    _refuse_own_format(encoder)
    _refuse_pickles(folder, encoder)
    kind = sentence_kind(folder)
    if kind not in {None, "SentenceTransformer", "CrossEncoder"}:
        raise SourceError(
            f"the folder is a {kind} of sentence-transformers, which was taken for {task.name}", where=str(folder)
        )
    if kind == "CrossEncoder" and task.name != "text-classification":
        raise SourceError(
            f"config_sentence_transformers.json: model_type is CrossEncoder, which scores pairs of texts; it was taken "
            f"for {task.name}",
            where=str(folder),
            hint="--task text-classification",
        )
    try:
        return _opened(folder, encoder, kind, task, max_length, prompt)
    except ImportError as error:
        raise NotAvailable(f"{error.name or error} is not installed") from None
    except (NotAvailable, SourceError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - each library raises classes of its own for a folder that it refuses
        raise SourceError(
            f"the library of its owner does not load it ({first_line(error)})",
            where=str(folder),
            hint="load it there first: what its own library refuses has no right answer",
        ) from None


def _opened(
    folder: Path, encoder: Path, kind: str | None, task: "Task", max_length: int, prompt: str | None
) -> OwnerLibrary:
    if kind == "SentenceTransformer" and task.name == "feature-extraction":
        kinds = {m.kind for m in sentence_modules(folder)}
        return SentenceLibrary(folder, prompt) if kinds & POOLING else TokenLibrary(folder, prompt)
    if kind == "CrossEncoder":
        return CrossEncoderLibrary(folder, task.labels, prompt)
    if task.name == "question-answering":
        return QuestionLibrary(encoder, task, max_length)
    return AutoLibrary(encoder, task, max_length)


def sentence_kind(folder: Path) -> str | None:
    """Return which class of sentence-transformers the folder is for; None where it is none of that library's."""
    table = _table(folder / "config_sentence_transformers.json")
    if isinstance(table.get("model_type"), str):
        return str(table["model_type"])
    if sentence_modules(folder):
        return "SentenceTransformer"
    config = _table(folder / "config.json")
    marks = {"sentence_transformers", "sbert_ce_default_activation_function"}
    return "CrossEncoder" if marks & set(config) else None


def _table(path: Path) -> dict[str, Any]:
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}


def _refuse_own_format(encoder: Path) -> None:
    found = next((name for name in (SHAPE_FILE, STAND_INS_FILE) if (encoder / name).is_file()), None)
    if found:
        raise NotAvailable(
            f"{found}: the folder was pruned or packed by plm-export, and no other library opens that format"
        )


def _refuse_pickles(folder: Path, encoder: Path) -> None:
    """Keep every library from the pickles that it would fall back to where it finds no safetensors."""
    rooms = {encoder, *(folder / m.path for m in sentence_modules(folder))}
    for room in sorted(rooms):
        files = sorted(room.iterdir()) if room.is_dir() else []
        pickles = [f for f in files if f.suffix in PICKLES and f.name != "training_args.bin"]
        if pickles and not any(f.suffix == ".safetensors" for f in files):
            raise NotAvailable(
                f"{pickles[0].name} is a pickle, which is never opened, and no safetensors lie beside it"
            )
