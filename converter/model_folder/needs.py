"""What loading a folder takes of memory, told from the headers of its weights before any library opens it."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from converter.bounds.files import UnfitFileError
from converter.errors import ExportError
from converter.forecast import MemoryNeed
from converter.jsonfile import read_table
from converter.model_folder.adapters import CONFIG, local_base
from converter.model_folder.contents import weight_files
from converter.model_folder.locate import encoder_folder_of, sentence_modules
from converter.model_folder.weights_header import read_stored

BYTES = 4
"""Of a weight in float32."""


def loading_of(folder: Path) -> MemoryNeed:
    """Return what the weights in `folder` take, those of its modules and of an adapter's base among them.

    Files in float32 are mapped, so that the system takes their pages back, unless an adapter changes them. Nothing is
    counted of what cannot be read, which is for the loader to tell, nor of what is not on this machine.
    """
    held = mapped = 0
    changed = (folder / CONFIG).is_file()
    for file in _files(folder):
        with suppress(ExportError, UnfitFileError, OSError):
            size = read_stored(file).numbers * BYTES
            if sys.platform == "linux" and not changed and file.stat().st_size > size:
                mapped += size
            else:
                held += size
    return MemoryNeed("loading", held, mapped)


def _files(folder: Path) -> Iterator[Path]:
    found: set[Path] = set()
    with suppress(ExportError, OSError):
        found = {folder, *(folder / module.path for module in sentence_modules(folder))}
    with suppress(ExportError, OSError):
        named = str(read_table(folder / CONFIG).get("base_model_name_or_path") or "")
        base = local_base(folder, named)
        found |= {encoder_folder_of(base)} if base is not None else set()
    for one in found:
        with suppress(ExportError, OSError):
            yield from weight_files(one)
