"""What goes and what stays, decided before any weight moves."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from converter.errors import RecipeError, StageFailed
from converter.model_folder.shape_map import FILE_NAME, LayerShape, ShapeMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel

Scope = Literal["global", "layer"]
Score = Literal["taylor", "fisher", "magnitude"]
Loss = Literal["auto", "labels", "answers"]


@dataclass(frozen=True)
class UnitScores:
    """Importance of the heads and neurons of one layer, as it is now."""

    heads: "NDArray[np.float64]"
    neurons: "NDArray[np.float64]"
    cross: "NDArray[np.float64]" = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer; indices are those of the original model."""

    layer: int
    shape: LayerShape
    heads_before: int
    neurons_before: int
    heads_importance_kept: float | None
    """Share (0..1) of the layer's importance that the kept heads carry: why the others could go. None: not measured."""
    neurons_importance_kept: float | None
    cross_before: int = 0
    """Heads of the attention to an encoder; 0 where there is none."""


@dataclass(frozen=True)
class PruningPlan:
    """The whole decision: saved in the record and drawn in the report."""

    layers: tuple[LayerPlan, ...]

    def as_facts(self) -> list[dict[str, Any]]:
        """Return JSON values; the neurons themselves are listed in `shape_map.json`."""
        return [
            {
                "layer": p.layer,
                "heads_before": p.heads_before,
                "heads_kept": list(p.shape.heads),
                "heads_importance_kept": _rounded(p.heads_importance_kept),
                "neurons_before": p.neurons_before,
                "neurons_kept": len(p.shape.neurons),
                "neurons_importance_kept": _rounded(p.neurons_importance_kept),
                **({"cross_before": p.cross_before, "cross_kept": list(p.shape.cross)} if p.cross_before else {}),
            }
            for p in self.layers
        ]


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def load_shapes(file: Path, given: "TorchModel") -> list[LayerShape]:
    """Read the `shape_map.json` of another run: what it left of the model `given`, indices into its layers.

    Raises:
        RecipeError: there is no such file, or it speaks of a model of other layers, heads or neurons.

    """
    from converter.surgery.resize import places_in, shape_map_of

    folder = file.parent if file.name == FILE_NAME else file
    wanted = ShapeMap.load(folder)
    if wanted is None:
        raise RecipeError(f"there is no {FILE_NAME}", where=str(file), hint="it is in compressed/, with the weights")
    was = shape_map_of(given)
    try:
        shapes = places_in(was, wanted)
    except StageFailed as error:
        raise RecipeError(f"the plan belongs to another model: {error}", where=str(file)) from None
    if was.layers == wanted.layers:
        raise RecipeError("the plan removes nothing from this model", where=str(file))
    return shapes


def describe_plan(before: ShapeMap, after: ShapeMap, scores: Sequence[UnitScores]) -> PruningPlan:
    """Return the plan that led from `before` to `after`; `scores` are those of the units of `before`, where known."""
    made = []
    for i, (was, now) in enumerate(zip(before.layers, after.layers, strict=True)):
        score = scores[i] if scores else None
        made.append(
            LayerPlan(
                layer=before.layers_kept[i],
                shape=now,
                heads_before=len(was.heads),
                neurons_before=len(was.neurons),
                heads_importance_kept=_share(was.heads, now.heads, score.heads) if score else None,
                neurons_importance_kept=_share(was.neurons, now.neurons, score.neurons) if score else None,
                cross_before=len(was.cross),
            )
        )
    return PruningPlan(tuple(made))


def _share(was: Sequence[int], now: Sequence[int], scores: "NDArray[np.float64]") -> float:
    total = float(scores.sum())
    kept = set(now)
    return float(sum(s for unit, s in zip(was, scores, strict=True) if unit in kept)) / total if total > 0 else 1.0


@dataclass(frozen=True)
class Budget:
    """How many units of one kind are to stay, of how many: in all layers together, or in each."""

    widths: tuple[int, ...]
    ratio: float
    """Share to remove, of `widths`."""
    chunk: int
    """Units stay in multiples of this, where a layer is at least two of them wide."""
    scope: Scope

    def chunk_of(self, width: int) -> int:
        return self.chunk if width >= 2 * self.chunk else 1

    @property
    def groups(self) -> list[list[int]]:
        """Layers among which units compete."""
        layers = list(range(len(self.widths)))
        return [layers] if self.scope == "global" else [[i] for i in layers]

    def refuse_nothing(self, what: str) -> None:
        """Raise `RecipeError` where the ratio is too small to remove even one chunk, or nothing can be spared."""
        if self.ratio == 0:
            return
        for group in self.groups:
            wanted = self.ratio * sum(self.widths[i] for i in group)
            smallest = min(self.chunk_of(self.widths[i]) for i in group)
            if round(wanted / smallest) < 1:
                raise RecipeError(
                    f"{what}={self.ratio:g} of {sum(self.widths[i] for i in group)} removes nothing",
                    hint=f"at least {smallest / sum(self.widths[i] for i in group):.3f} removes {smallest}",
                )
            if all(self.widths[i] <= self.chunk_of(self.widths[i]) for i in group):
                raise RecipeError(f"{what}={self.ratio:g} would leave a layer with none", hint="it has one left")


def choose_units(
    budget: Budget, scores: Sequence["NDArray[np.float64]"], now: Sequence[int], progress: float
) -> list[tuple[int, ...]]:
    """Return the units that stay in each layer when `progress` (0..1) of the budget is spent.

    `scores` are those of the units left, `now` their numbers: `scores[i]` has `now[i]` entries. Units compete in
    chunks: a layer's units are sorted by score, its weakest chunk goes first, and its strongest chunk always stays.
    """
    kept: list[tuple[int, ...]] = [()] * len(scores)
    for group in budget.groups:
        before = sum(budget.widths[i] for i in group)
        spare = sum(now[i] for i in group) - (before - budget.ratio * progress * before)
        gone = _weakest_chunks(budget, {i: scores[i] for i in group}, spare)
        for i in group:
            order = np.argsort(-scores[i], kind="stable")
            kept[i] = tuple(sorted(int(unit) for unit in order[: now[i] - gone[i]]))
    return kept


def _weakest_chunks(budget: Budget, scores: dict[int, "NDArray[np.float64]"], spare: float) -> dict[int, int]:
    """Return how many units each layer loses so that `spare` units go, to the nearest chunk."""
    offers: list[tuple[float, int, int]] = []
    for layer, values in scores.items():
        chunk = budget.chunk_of(budget.widths[layer])
        ordered = np.sort(values)[::-1]
        chunks = [ordered[start : start + chunk] for start in range(chunk, len(ordered), chunk)]
        # Mean, not sum: a last chunk that is not full must not look weaker than it is.
        offers.extend((float(c.mean()), layer, len(c)) for c in chunks)
    gone = dict.fromkeys(scores, 0)
    # The weakest first; of equals, the one of the last layer.
    for _, layer, size in sorted(offers, key=lambda o: (o[0], -o[1], o[2])):
        if spare < size / 2:
            break
        gone[layer] += size
        spare -= size
    return gone
