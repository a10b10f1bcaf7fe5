"""The model with the weights that a file stores: what is left between the two is no rounding of weights.

In four bits rounding alone moves answers so far that a fault of the graph hides behind it. So the model is asked with
the file's own weights, brought back to float, and a package of it differs by what rounding its inputs costs.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

ERRORS, ROOM = 1.3, 0.002
"""How far fitted factors may be, at the median, from those that they are taken for: in standard errors, and beside. Of
a normal distribution it is 0.67 of one; 0.4 to 0.8 were measured."""
ONE = 0.03
"""How far from 1 a factor of all weights is that rounding made of none."""

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.validate.weights_match import Block, Matched


@dataclass(frozen=True)
class OwnWeights:
    """Matrices, found to be the model's, and tables by module, as a file has them."""

    blocks: "Sequence[Block]"
    tables: "Mapping[str, NDArray[np.float32]]"
    divided: "Sequence[NDArray[np.float32]]" = ()
    """What gains of normalizations may have been divided by, which the rows behind them were multiplied by."""
    missing: str = ""
    """Why the model cannot be given all of them: what is not found is rounded in the file and not in the model."""

    @contextlib.contextmanager
    def within(self, model: "TorchModel", *, shaken: bool = False) -> "Iterator[None]":
        """Give `model` these weights as long as the context lasts.

        What rewrites multiplied rows and columns by is taken back: the graph that they left must make up for it.
        `shaken`: what is not known of these factors is added to them, at random.
        """
        import torch

        found = dict(self._matrices(np.random.default_rng(0) if shaken else None))
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

    def _matrices(self, random: "np.random.Generator | None") -> "Iterator[tuple[str, NDArray[np.float32]]]":
        """Yield the matrices without factors, by module; `random` shakes those that are known by fitting alone."""
        for block, by_row, by_column in self._factors:
            number = by_row.number * by_column.number
            factors = by_row.shaken(random)[:, None] * by_column.shaken(random)
            factors = factors * (1 if abs(number - 1) <= ONE else number)
            assert block.values is not None
            yield block.source, np.asarray(block.values / factors, dtype=np.float32)

    @cached_property
    def _factors(self) -> "list[tuple[Block, _Factors, _Factors]]":
        """What rows and columns of each matrix were multiplied by."""
        there = [b for b in self.blocks if b.values is not None]
        rows = [_taken_for(b.rows, float(np.median(b.row_errors)), self.divided) for b in there]
        back = [np.asarray(1 / found.values, dtype=np.float32) for found in rows]
        # As much is known of a factor as there are weights that tell it.
        errors = [r.error * float(np.sqrt(len(b.columns) / len(b.rows))) for b, r in zip(there, rows, strict=True)]
        columns = (_taken_for(b.columns, error, back) for b, error in zip(there, errors, strict=True))
        return list(zip(there, rows, columns, strict=True))


def own_weights(
    matched: "Matched",
    tables: "Mapping[str, Sequence[NDArray[np.float32]]]",
    lost_tables: int,
    products: "Collection[str]",
    divided: "Sequence[NDArray[np.float32]]",
) -> OwnWeights:
    """Return what a file stores of the model whose matrices are called `products`.

    `tables` are the stored ones by table of the model; `lost_tables` in few bits are none of it.
    """
    found: dict[str, Block] = {}
    twice = [b.source for b in matched.blocks if found.setdefault(b.source, b) is not b]
    several = [name for name, ones in tables.items() if any(not np.array_equal(ones[0], one) for one in ones[1:])]
    missing = ""
    if matched.unknown or lost_tables or found.keys() != set(products):
        missing = "the file holds weights in few bits that are not known to be the model's"
    elif twice or several:
        missing = f"the file holds {(twice + several)[0]} twice, rounded in two ways"
    return OwnWeights(list(found.values()), {name: ones[0] for name, ones in tables.items()}, divided, missing)


@dataclass(frozen=True)
class _Factors:
    """What fitted factors were taken for: `values` times a `number`."""

    values: "NDArray[np.float32]"
    number: float
    error: float
    """Standard error of fitting one, over it."""
    fitted: bool = False
    """They are known by fitting alone."""

    def shaken(self, random: "np.random.Generator | None") -> "NDArray[np.float32]":
        if random is None or not self.fitted:
            return self.values
        return np.asarray(self.values * (1 + self.error * random.standard_normal(len(self.values))), dtype=np.float32)


def modules_of(model: "TorchModel") -> "Iterator[tuple[str, Any]]":
    """Yield the modules of a model by name, those of a head of its own too."""
    import torch

    yield from model.module.named_modules()
    if isinstance(model.head, torch.nn.Module):
        yield from model.head.named_modules(prefix="head")


def _taken_for(found: "NDArray[np.float32]", error: float, known: "Sequence[NDArray[np.float32]]") -> _Factors:
    """Return what fitted factors were: all alike, or one of `known` times a number, whichever is nearest.

    If none is as near as fitting is exact, they are what was fitted.
    """
    safe = np.where(np.abs(found) > 1e-12, found, np.float32(1))
    candidates = np.stack([np.ones_like(safe), *(k for k in known if len(k) == len(safe))])
    ratios = safe / candidates
    middles = np.median(ratios, axis=1, keepdims=True)
    logs = np.log(np.maximum(ratios / np.where(middles != 0, middles, 1), 1e-12))
    off = np.median(np.abs(logs), axis=1)
    best = int(off.argmin())
    if off[best] > ERRORS * error + ROOM:
        return _Factors(safe, 1.0, error, fitted=True)
    return _Factors(candidates[best], float(middles[best, 0]), error)
