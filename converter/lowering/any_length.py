"""One signature that takes any length: least memory, and no padding."""

from pathlib import Path

from converter.lowering.flat import read_flat, write_flat
from converter.lowering.model import ANY_SIGNATURE
from converter.lowering.stamp import stamp


def write_any_length(given: Path, path: Path, longest: int) -> None:
    """Make of a file's two longest signatures one that takes from 1 to `longest` tokens.

    Raises:
        NotAlike: some constant of this architecture depends on the length.

    """
    model = read_flat(given)
    stamp(model, (), f"{ANY_SIGNATURE}{longest}")
    write_flat(model, path)
