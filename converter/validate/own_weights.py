"""The model with the weights that a file stores: what is left between the two is no rounding of weights.

In four bits rounding alone moves answers so far that a fault of the graph hides behind it. So the model is asked with
the file's own weights, brought back to float, and a package of it differs by what rounding its inputs costs.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

ALIKE = 0.03
"""How far factors are from one another, and from 1, that rounding to four bits made of ones."""

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.validate.weights_match import Block


@dataclass(frozen=True)
class OwnWeights:
    """Matrices, found to be the model's, and tables by module, as a file has them."""

    blocks: "Sequence[Block]"
    tables: "Mapping[str, NDArray[np.float32]]"

    @contextlib.contextmanager
    def within(self, model: "TorchModel", *, shaken: bool = False) -> "Iterator[None]":
        """Give `model` these weights as long as the context lasts.

        What rewrites multiplied rows and columns by is taken back: the graph that they left must make up for it.
        `shaken`: what is not known of these factors is added to them, at random.
        """
        import torch

        random = np.random.default_rng(0)
        found = {b.source: _unscaled(b, random if shaken else None) for b in self.blocks if b.values is not None}
        kept: list[tuple[Any, Any]] = []
        try:
            for name, module in modules_of(model):
                values = found.get(name, self.tables.get(name))
                if values is None:
                    continue
                kept.append((module, module.weight))
                turned = values.T if isinstance(module, torch.nn.Linear) else values
                # A parameter of its own: a table that the output layer shares may be stored twice.
                values = np.ascontiguousarray(turned, dtype=np.float32)
                module.weight = torch.nn.Parameter(torch.from_numpy(values), requires_grad=False)
            yield
        finally:
            for module, weight in kept:
                module.weight = weight


def modules_of(model: "TorchModel") -> "Iterator[tuple[str, Any]]":
    """Yield the modules of a model by name, those of a head of its own too."""
    import torch

    yield from model.module.named_modules()
    if isinstance(model.head, torch.nn.Module):
        yield from model.head.named_modules(prefix="head")


def _unscaled(block: "Block", random: "np.random.Generator | None") -> "NDArray[np.float32]":
    assert block.values is not None
    n_rows, n_columns = block.values.shape
    error = float(np.median(block.spread))
    rows = _factors(block.rows, random, error)
    # As much is known of a factor as there are weights that tell it.
    columns = _factors(block.columns, random, error * float(np.sqrt(n_columns / n_rows)))
    return np.asarray(block.values / (rows[:, None] * columns), dtype=np.float32)


def _factors(found: "NDArray[np.float32]", random: "np.random.Generator | None", error: float) -> "NDArray[np.float32]":
    """Return factors as they were: fitted ones that vary no more than rounding explains are all the same."""
    safe = np.where(np.abs(found) > 1e-12, found, np.float32(1))
    middle = np.float32(np.median(safe))
    logs = np.log(np.maximum(safe / middle, 1e-12))
    if float(np.median(np.abs(logs))) > ALIKE:
        noise = 0 if random is None else error * random.standard_normal(len(safe))
        return np.asarray(safe * (1 + noise), dtype=np.float32)
    return np.full_like(safe, 1 if abs(float(middle) - 1) <= ALIKE else middle)
