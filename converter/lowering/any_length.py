"""One signature that takes any length: least memory, and no padding."""

from pathlib import Path

from converter.errors import StageFailed
from converter.lowering.flat import read_flat, write_flat
from converter.lowering.model import ANY_SIGNATURE
from converter.lowering.stamp import NotAlike, stamp


def write_any_length(given: Path, path: Path, longest: int) -> None:
    """Make of a file's two longest signatures one that takes from 1 to `longest` tokens.

    Raises:
        StageFailed: some constant of this architecture depends on the length.

    """
    model = read_flat(given)
    try:
        stamp(model, (), f"{ANY_SIGNATURE}{longest}")
    except NotAlike as error:
        raise StageFailed(
            f"the graph does not take any length ({error})",
            where="any_length",
            hint="leave any_length out: one signature per length always works",
        ) from None
    write_flat(model, path)
