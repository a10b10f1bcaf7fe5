"""The folder that a quantizer writes to."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from converter.precision import Quantizer
    from converter.stage import Context


@contextmanager
def quantizer_folder(stage: "Quantizer[Any]", ctx: "Context") -> Iterator[Path]:
    """Make the folder for what a quantizer makes with its options; where it fails, nothing of it stays.

    A run may try several options: what was made with some must stay.
    """
    folder = ctx.work / f"{stage.precision.name}-{crc32(repr(stage).encode()):08x}"
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """Make a folder for what is needed on the way alone: observed activations, rounded weights, graphs in between.

    All of that together may be more than the model.
    """
    with TemporaryDirectory(prefix="scratch-", dir=folder, ignore_cleanup_errors=True) as name:
        yield Path(name)
