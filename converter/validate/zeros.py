"""Zeros in a shipped file: whether pruned weights are still zero there, and what the file is in an archive."""

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import stored_weight
from converter.graphs import MODEL
from converter.resources import PagesRead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import Bundle, TorchModel

LEAST = 0.05
"""Share of zeros in the linear layers below which a model was not pruned that way."""
AT_ONCE = 1 << 22
LEVEL = 6
"""Of deflate, as archives and downloads use it."""


def zeros_facts(bundle: "Bundle", product_weights: "Iterable[NDArray[Any]]") -> dict[str, Any]:
    """Return the share of zeros among the weights of the file's products, and its size deflated.

    `product_weights` are those weights, one at a time, as the target reads them. Empty where the model has no zeros to
    speak of: reading all weights takes a second for every 20 MB.
    """
    wanted = zeros_of_linears(bundle.source)
    if wanted < LEAST:
        return {}
    path = bundle.folder / bundle.files[MODEL]
    zeros = weights = 0
    for values in product_weights:
        zeros, weights = zeros + int((values == 0).sum()), weights + values.size
    return {
        "zeros": {
            "share_of_source": round(wanted, 4),
            # Weights of 4 bits are not unpacked.
            "share": round(zeros / weights, 4) if weights else None,
            "deflated_bytes": _deflated(path),
        }
    }


def zeros_of_linears(model: "TorchModel") -> float:
    """Return the share of zeros among the weights of all linear layers."""
    import torch

    linears = [m for m in model.module.modules() if isinstance(m, torch.nn.Linear)]
    zeros, pages = 0, PagesRead()
    for linear in linears:
        zeros += int((stored_weight(linear) == 0).sum())
        pages.add(linear.weight.nbytes)  # of a mapped checkpoint all pages would be in memory in the end
    return zeros / max(1, sum(m.weight.numel() for m in linears))


def _deflated(path: Path) -> int:
    made, n_bytes = zlib.compressobj(LEVEL), 0
    with path.open("rb") as opened:
        while part := opened.read(AT_ONCE):
            n_bytes += len(made.compress(part))
    return n_bytes + len(made.flush())
