"""A graph of any length, run before it is shipped: where it is not what it was made of, each length keeps its own.

Shapes and constants tell how a graph moves with its length; whether the runtime follows, only a run does.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from converter.examples import pad_batch
from converter.graphs import MODEL, Run
from converter.onnx.equality import Differences
from converter.stage import Context
from converter.tflite.file import in_blocks
from converter.tflite.lengths.rows import filled_rows
from converter.tflite.lengths.stamp import LengthDependent
from converter.tflite.model import TfliteModel
from converter.tflite.runner import TfliteRunner

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIMIT = 0.1
"""Of the output range: kernels that round activations each their own way differ by 0.04 on MiniLM, a wrong shape or
constant by the whole range."""


def try_lengths(given: TfliteModel, run: Run, ctx: Context, shown: "Callable[[Any], Any]" = lambda x: x) -> None:
    """Compare a file made of `given` with it, back at a length that was used before, and at one between two others.

    `shown`: what `run` makes of an output of `given`.

    Raises:
        LengthDependent: the runtime refuses, or gives different answers.

    """
    shortest, longest = given.lengths[0], given.lengths[-1]
    # Weights in blocks run in XNNPACK alone; it packs the weights of every length, which takes memory.
    known = TfliteRunner(given.path, given.source.specs, xnnpack=in_blocks(given.path))
    differences = Differences()
    for length in (longest, shortest, (shortest + longest) // 2, longest):
        (row,) = filled_rows(given.source, ctx, length, 1)
        feed = pad_batch([row], given.source.specs[MODEL])
        wanted = known.run(MODEL, feed)
        for name, found in _answers(run, feed).items():
            differences.add(name, length, shown(wanted[name]), found)
    output, length, worst = differences.worst()
    # Written so that NaN fails.
    if not worst <= LIMIT:
        raise LengthDependent(f"{output} is off by {worst:.1e} of its range at {length} tokens")


def _answers(run: Run, feed: Mapping[str, Any]) -> "Mapping[str, NDArray[np.float32]]":
    try:
        return run(MODEL, feed)
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise LengthDependent(f"the runtime says: {said[-1] if said else repr(error)}") from None
