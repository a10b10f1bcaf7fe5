"""One signature that takes any length: least memory, and no padding."""

from pathlib import Path

from converter.tflite.file import read_flat, write_flat
from converter.tflite.lengths.stamp import stamp
from converter.tflite.model import ANY_SIGNATURE


def write_any_length(given: Path, path: Path, longest: int) -> None:
    """Make of a file's two longest signatures one that takes from 1 to `longest` tokens.

    Raises:
        LengthDependent: some constant of this architecture depends on the length.

    """
    model = read_flat(given)
    stamp(model, (), f"{ANY_SIGNATURE}{longest}")
    write_flat(model, path)
