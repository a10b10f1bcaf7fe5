"""Opens a TFLite file in LiteRT's CompiledModel, its packed weights in a file on disk.

A process that is killed while it packs leaves its folder behind; the next one that packs removes it.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from converter.bounds.scratch import held, own_prefix, remove_of_dead
from converter.errors import PackageDamaged, RuntimeMissing

PACKED = 5
"""Times the file that packed weights may take on disk: int8 that is computed in float32 is packed as that."""
PREFIX = "plm-export-packed-"
LEAST_LITERT = "2.3"
"""Whose CompiledModel takes options of the CPU, and a file for the packed weights among them."""
NO_FOLDER = "/dev/null/none"
"""Nothing can lie there: no libraries for other processors, which LiteRT would load and tell of."""


def open_compiled(path: Path, threads: int) -> Any:
    """Open a file in LiteRT's CompiledModel, its packed weights in a file that the system may drop and read again.

    That file is in the folder for temporary files; where this is memory (tmpfs), so are the weights. Where it has no
    room for them, or cannot be written, they are packed in memory of the process. The file is opened twice: what packs
    the weights keeps the largest of them in memory as long as it lives.

    Raises:
        PackageDamaged: LiteRT does not compile it, with a file for the packed weights or without.
        RuntimeMissing: this LiteRT is too old.

    """
    with contextlib.suppress(OSError, PackageDamaged), _scratch_folder() as folder:
        _find_room(folder, PACKED * path.stat().st_size)
        packed = str(folder / "weights")
        _compiled(path, threads, packed).close()
        # Once it is open, the file needs no name: from then on it is gone with the process, however that ends.
        return _compiled(path, threads, packed)
    return _compiled(path, threads, "")


@contextlib.contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Make a folder that tells its process, and is locked until it is removed.

    Raises:
        OSError: no folder can be made, or another process removes it.

    """
    remove_of_dead(PREFIX)
    made = Path(tempfile.mkdtemp(prefix=own_prefix(PREFIX)))
    with held(made) as alone:
        if not alone or not made.is_dir():
            raise FileNotFoundError(made)
        yield made


def _find_room(folder: Path, size: int) -> None:
    """Reserve so many bytes and give them back: where XNNPACK finds no room while it packs, it ends the process.

    What is free does not tell of quotas, of limits of a process, and of what others reserve.

    Raises:
        OSError: there is no such room.

    """
    # Reserved memory would be taken from other processes, or be more than a container may have.
    if _is_memory(folder) or not hasattr(os, "posix_fallocate"):
        if shutil.disk_usage(folder).free < size:
            raise OSError(f"{folder} has no room for {size} bytes")
        return
    reserved = folder / "reserved"
    with reserved.open("wb") as scratch:
        os.posix_fallocate(scratch.fileno(), 0, size)
    reserved.unlink()


def _is_memory(folder: Path) -> bool:
    found = [p for p in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(p.mountpoint)]
    return bool(found) and max(found, key=lambda p: len(p.mountpoint)).fstype in ("tmpfs", "ramfs")


def _compiled(path: Path, threads: int, packed: str) -> Any:
    try:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.cpu_options import CpuOptions
        from ai_edge_litert.environment import Environment
        from ai_edge_litert.options import Options

        environment = Environment.create(
            runtime_path=NO_FOLDER, compiler_plugin_path=NO_FOLDER, dispatch_library_path=NO_FOLDER
        )
        options = Options(cpu_options=CpuOptions(num_threads=threads, xnnpack_weight_cache_path=packed))
        return CompiledModel.from_file(str(path), environment=environment, options=options)
    except (ImportError, AttributeError, TypeError) as error:
        raise RuntimeMissing(
            f"ai-edge-litert {version('ai-edge-litert')} cannot run it with packed weights in a file ({error})",
            where=str(path),
            hint=f"pip install -U 'ai-edge-litert>={LEAST_LITERT}'",
        ) from error
    except (ValueError, RuntimeError) as error:
        said = [line.strip("└ ") for line in str(error).splitlines()]
        reason = next((line for line in reversed(said) if line), type(error).__name__)
        raise PackageDamaged(f"LiteRT does not compile it ({reason})", where=str(path)) from None
