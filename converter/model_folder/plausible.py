"""What a folder names is held to what it holds, before anything is allocated: files by kind and size, sizes by weights.

A configuration of 100 bytes can ask for a billion layers, labels or neurons; libraries make them before they look at
the weights.
"""

import fnmatch
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converter.bounds.documents import parse_json
from converter.bounds.files import MEGABYTE, UnfitFileError, read_bounded, refuse_unfit
from converter.errors import ResourceLimit, SourceError
from converter.jsonfile import read_table
from converter.model_folder.causes import refusal
from converter.model_folder.fields import Configuration, TokenizerConfiguration, check_fields
from converter.model_folder.said import first_line
from converter.model_folder.weights_header import StoredTensors

LARGEST = (
    ("tokenizer.json", 96 * MEGABYTE),
    ("vocab.*", 64 * MEGABYTE),
    ("merges.txt", 64 * MEGABYTE),
    ("README.md", 16 * MEGABYTE),
    ("*.json", 16 * MEGABYTE),
    ("*.jinja", 4 * MEGABYTE),
    ("*.spm", 64 * MEGABYTE),
    ("*.model", 64 * MEGABYTE),
    ("*.codes", 64 * MEGABYTE),
)
"""Largest sizes of files that libraries read whole, by their names; weights have none."""
TABLES = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "added_tokens.json")
"""What transformers reads by itself, as a table, and raises what comes on anything else."""
READ = ("*.json", "*.txt", "*.safetensors", *(pattern for pattern, _ in LARGEST))
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER, TOKENIZER_VALUES = "tokenizer.json", 8_000_000
COUNTS = ("layer", "expert", "block", "group", "stage", "head", "repeat", "predict")
"""Parts of the names of settings that say how often something is made."""
NO_COUNTS = ("token", "_id", "size", "dim", "length")
MOST_REPEATED = 1024
MOST_LABELS = 65_536
"""Labels that a base model may name without any weight for them: an adapter brings those."""
SPARE = 4_000_000
"""Numbers that a model may have beyond those stored: heads that are not trained yet, buffers that are computed."""
TIMES_STORED = 2


def check_entries(folder: Path) -> None:
    """Refuse what is no regular file, is larger than any real one, or is no table where libraries expect one.

    Raises:
        SourceError: names the file and what it is.

    """
    for path in _entries(folder):
        if path.is_symlink() and not path.exists():
            continue  # a link to nothing: what needs that file says so
        try:
            _check_entry(path)
        except UnfitFileError as error:
            if path.name in TOKENIZER_FILES and path.is_file():
                raise refusal("tokenizer-damaged", folder, {"detail": f"{path.name}: {error}"}) from None
            raise SourceError(
                str(error), where=_shown(path), hint="remove the file, or download the folder again"
            ) from None
        except OSError as error:
            raise SourceError(
                f"it cannot be read ({os.strerror(error.errno or 0)})",
                where=_shown(path),
                hint="a link to nothing, or a file without permission: download the folder again",
            ) from None


def _entries(folder: Path) -> Iterator[Path]:
    """Yield all that lies in a folder but its folders; names that are no text cannot be put into a manifest."""
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            yield path


def _shown(path: Path) -> str:
    return str(path).encode("utf-8", "backslashreplace").decode()


def _check_entry(path: Path) -> None:
    read = any(fnmatch.fnmatch(path.name, pattern) for pattern in READ)
    if path.is_symlink() and not path.exists() and not read:
        return
    limit = next((size for pattern, size in LARGEST if fnmatch.fnmatch(path.name, pattern)), None)
    refuse_unfit(path, limit if read else None)
    if path.name in TABLES:
        assert limit is not None
        table = parse_json(read_bounded(path, limit))
        _refuse_no_table(table)
        if path.name == TABLES[0]:
            check_fields(table, TokenizerConfiguration, path)
    if path.name == TOKENIZER:
        assert limit is not None
        _check_tokenizer(parse_json(read_bounded(path, limit), max_values=TOKENIZER_VALUES))


def _refuse_no_table(value: Any) -> None:
    if not isinstance(value, dict):
        raise UnfitFileError(f"wanted a table, found {type(value).__name__}")


def _check_tokenizer(table: Any) -> None:
    _refuse_no_table(table)
    if not isinstance(table.get("model"), dict):
        raise UnfitFileError("wanted a table with the tokenizer's model")


def check_settings(raw: Mapping[str, Any], stored: StoredTensors, where: Path) -> None:
    """Refuse numbers of layers and labels that the weights cannot have: they are made one by one.

    Raises:
        SourceError: names the setting, its value and what the weights hold.

    """
    for key, value in _numbers(raw):
        if key in {"num_labels", "_num_labels"}:
            limit = max(MOST_LABELS, stored.largest_size)
        elif any(part in key for part in COUNTS) and not any(part in key for part in NO_COUNTS):
            limit = max(MOST_REPEATED, len(stored.names))
        else:
            continue
        if value > limit:
            found = {"key": key, "value": f"{value:.3g}", "limit": limit}
            raise refusal("size-implausible", where, found)


def check_shipped_settings(folder: Path) -> None:
    """Look at the files of a package before libraries read them: tokenizers are loaded by config.json too.

    Raises:
        SourceError: names the file and what is wrong with it.

    """
    check_entries(folder)
    file = folder / "config.json"
    if file.is_file():
        table = read_table(file)
        check_fields(table, Configuration, file)
        check_settings(table, StoredTensors(), file)


def _numbers(table: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    """Yield the whole numbers of a configuration, and of the tables and lists in it, by the key they stand under."""
    waiting: list[tuple[str, Any]] = list(table.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            if key not in {"label2id", "id2label", "task_specific_params"}:
                waiting += [(str(k), v) for k, v in value.items()]
        elif isinstance(value, list):
            waiting += [(key, v) for v in value]
        elif type(value) is int:
            yield key, value


def check_size(auto: Any, config: Any, attention: str, stored: StoredTensors, folder: Path, *, whole: bool) -> None:
    """Build a model without memory, and refuse one that is larger than the weights that are to fill it.

    `whole` False: the folder holds a pruned model, built at its full size before it is cut.

    Raises:
        SourceError: config.json asks for more than the weights hold.
        ResourceLimit: the weights in float32 are larger than this machine's memory.

    """
    import psutil
    import torch

    refuse_without_memory(stored.numbers * 4, psutil.virtual_memory().total, folder)
    try:
        with torch.device("meta"):
            made = auto.from_config(config, dtype=torch.float32, attn_implementation=attention)
    except Exception as error:  # noqa: BLE001 - sizes of 0, or that do not divide, are found by what fails first
        raise refusal("not-loaded", folder, {"detail": first_line(error)}) from None
    wanted = sum(t.numel() for t in (*made.parameters(), *made.buffers()))
    if wanted > (TIMES_STORED if whole else 64) * stored.numbers + SPARE:
        found = {"wanted": f"{wanted / 1e6:.0f}", "stored": f"{stored.numbers / 1e6:.1f}"}
        raise refusal("larger-than-weights", folder, found)


def refuse_without_memory(needed: int, available: int, folder: Path) -> None:
    if needed > available:
        raise ResourceLimit(
            f"loading the model takes {needed / 1e9:.1f} GB, this machine has {available / 1e9:.1f} GB",
            where=str(folder),
            hint="use a machine with more memory, or a smaller model",
        )
