"""The class of machine that integer products come out equal on, and what a shipped tokenizer does by itself."""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.data.probes import ODD_TEXTS, builtin_sentences
from converter.generate.read_settings import table_of_settings
from converter.resources import cpu_facts

if TYPE_CHECKING:
    from converter.target import Runner
    from converter.task import Task

FEATURES = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Instruction sets by which runtimes choose their kernels."""
EXACT = 1e-6
"""What an output may change on the machine class that sealed it, over its range: measured is 0."""
CLIENT = "genai_config.json"
IDS_OF = "ids of text"
VOCABULARY_OF = "vocabulary"
SETTINGS = "generation settings"
SETTINGS_ADDED = frozenset({"renormalize_logits"})
"""Among them what packages were sealed without, whose source sets it: a record that lacks one says nothing of it."""
DEFAULTS = ("model_max_length", "padding_side", "truncation_side", "pad_token_id", "pad_token_type_id")


def machine_class(runner: "Runner") -> str:
    """Return architecture, instruction sets and runtime: where all are equal, a package answers bit by bit alike."""
    return f"{platform.machine()} {' '.join(_features()) or 'of unknown instructions'}; {runner.runtime}"


def tolerance_here(machine: str, runner: "Runner", elsewhere: float) -> float:
    """Return what a replay may change: next to nothing on the class of machine that sealed it, else `elsewhere`."""
    return min(EXACT, elsewhere) if machine and machine == machine_class(runner) else elsewhere


def defaults_of(folder: Path, tokenizer: Any, task: "Task") -> Mapping[str, Any]:
    """Return what users of a folder get without asking: how its tokenizer cuts and pads, how classes are called."""
    found: dict[str, Any] = {name: getattr(tokenizer, name, None) for name in DEFAULTS}
    listed = folder / "labels.txt"
    names: dict[str, Any] = {"labels": list(task.labels)} if task.labels else {}
    plain = folder / "tokenizer.json"
    if plain.is_file():
        table = json.loads(plain.read_text(encoding="utf-8"))
        found |= {f"{name} of tokenizer.json": table.get(name) for name in ("truncation", "padding")}
    if names and listed.is_file():
        names["labels.txt"] = listed.read_text(encoding="utf-8").split("\n")[:-1]
    found |= {VOCABULARY_OF: _digest(tokenizer.get_vocab())}
    return found | names | _writing(folder, tokenizer, task) | _ids_of_builtin_text(tokenizer)


def as_recorded(name: str, found: Any, wanted: Any) -> Any:
    """Return a default of `defaults_of` without the settings of which a record, `wanted`, says nothing."""
    if name != SETTINGS or not isinstance(found, Mapping) or not isinstance(wanted, Mapping):
        return found
    return {key: value for key, value in found.items() if key in wanted or key not in SETTINGS_ADDED}


def _writing(folder: Path, tokenizer: Any, task: "Task") -> dict[str, Any]:
    """Return how a model that writes text does so by itself, and what onnxruntime-genai is told of it."""
    if task.kind == "encoder":
        return {}
    writer: Any = task
    other = folder / CLIENT
    return {
        SETTINGS: table_of_settings(writer.settings),
        "chat template": _digest(getattr(tokenizer, "chat_template", None)),
        CLIENT: _digest(json.loads(other.read_text(encoding="utf-8"))) if other.is_file() else None,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _ids_of_builtin_text(tokenizer: Any) -> dict[str, str]:
    """Return the digest of the ids of our own text, hard cases included, by the digest of that text.

    Another version of this tool may have other text: it then finds nothing under this name.
    """
    texts = [*builtin_sentences(), *ODD_TEXTS.values()]
    ids = tokenizer(texts, truncation=True, verbose=False)["input_ids"]
    known, found = (_digest(x) for x in (texts, ids))
    return {f"{IDS_OF} {known[:12]}": found}


def _features() -> list[str]:
    found = {flag for name, value in cpu_facts() if name in ("flags", "Features") for flag in value.split()}
    return [name for name in FEATURES if name in found]
