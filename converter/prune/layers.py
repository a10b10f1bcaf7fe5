"""Fewer layers: a shallower copy, as it is or as the student of a distillation."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import TorchModel
from converter.binding import among, option
from converter.errors import RecipeError
from converter.graphs import MODEL
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converter.forecast import Forecast
    from converter.stage import Ticker


@dataclass(frozen=True)
class LayerDropping(Stage[TorchModel, TorchModel]):
    """Drop whole layers (Sajjad et al., arXiv 2004.03844; DistilBERT's student is made so, 1910.01108).

    `even` keeps evenly spaced layers, including the first and the last. `damage` removes one layer at a time, the one
    whose loss changes the answers to calibration text least.

    As a recipe: `compress = [{stage = "prune.layers", keep = 3}, {stage = "distill.soft"}]`
    """

    keep: int = option(0, "number of layers to keep; 0: half of them", low=0)
    indices: tuple[int, ...] = option((), "keep exactly these layers, counted from 0, as in 0+2+5", low=0)
    choose: Literal["even", "damage"] = option(
        "even",
        "keep evenly spaced layers, or drop those whose loss changes the answers least",
        search=among("even", "damage"),
    )
    texts: int = option(64, "calibration texts for choose=damage", low=1, effort=16)

    summary = "remove whole layers"
    place = 2

    def __post_init__(self) -> None:
        if self.keep and self.indices:
            raise RecipeError("give keep or indices, not both", where="prune.layers")
        if self.indices and self.choose == "damage":
            raise RecipeError(
                "indices already name the layers to keep: choose has no effect",
                where="prune.layers",
                hint="give keep and choose, or indices alone",
            )
        if list(self.indices) != sorted(set(self.indices)):
            raise RecipeError(f"indices must be ascending, found {list(self.indices)}", where="prune.layers.indices")

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        from converter.surgery.resize import shape_map_of

        self._wanted(len(shape_map_of(source).layers_kept))

    def check_after(self, before: "Sequence[Stage[Any, Any]]") -> None:
        left = layers_left(before)
        if left is not None and (self.keep or self.indices):
            self._wanted(left)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.surgery.count import n_parameters
        from converter.surgery.resize import family_of, shallower, shape_map_of

        n_layers = len(shape_map_of(given).layers_kept)
        wanted = self._wanted(n_layers)
        facts: dict[str, Any] = {}
        # Where all layers are one, every drop leaves the same model.
        if self.choose == "damage" and not family_of(given).shares_layers:
            wanted, facts["damage"] = self._least_damage(given, ctx, len(wanted))
        made = shallower(given, wanted)
        assert made.shape_map is not None
        facts |= {
            "layers_before": n_layers,
            "layers_kept": list(made.shape_map.layers_kept),
            "parameters_before": n_parameters(given),
            "parameters_after": n_parameters(made),
        }
        return Outcome(made, facts)

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.structured.forecast import by_layers
        from converter.surgery.resize import family_of, shape_map_of

        n_layers = len(shape_map_of(model).layers_kept)
        kept = self._wanted(n_layers)
        return now if family_of(model).shares_layers else by_layers(now, model, kept, self.texts)

    @property
    def n_kept(self) -> int | None:
        """Layers that will be left; None where it is half of what there are."""
        return len(self.indices) or self.keep or None

    def _wanted(self, n_layers: int) -> tuple[int, ...]:
        if self.indices:
            if self.indices[-1] >= n_layers:
                raise RecipeError(
                    f"there is no layer {self.indices[-1]}: layers are numbered 0 to {n_layers - 1}",
                    where="prune.layers.indices",
                )
            kept = self.indices
        else:
            kept = spread(self.keep or math.ceil(n_layers / 2), n_layers)
        if len(kept) == n_layers:
            raise RecipeError(f"all {n_layers} layers would be kept", where="prune.layers", hint="keep fewer")
        return kept

    def _least_damage(
        self, given: TorchModel, ctx: Context, n_kept: int
    ) -> tuple[tuple[int, ...], list[dict[str, float]]]:
        """Drop greedily; returns the kept layers and what each drop cost."""
        from converter.structured.importance import gather_evidence

        evidence = gather_evidence(given, ctx, n_texts=self.texts, max_length=128, loss="answers", score="taylor")
        kept = tuple(range(given.config.num_hidden_layers))
        log: list[dict[str, float]] = []
        tries = sum(range(n_kept + 1, len(kept) + 1))
        with ctx.progress.task("Measuring layers", total=tries * len(evidence.batches)) as ticker:
            while len(kept) > n_kept:
                options = {i: tuple(k for k in kept if k != i) for i in kept}
                costs = {i: _damage(given, left, evidence.batches, ticker) for i, left in options.items()}
                gone = min(costs, key=lambda i: costs[i])
                log.append({"dropped": gone, "distance": round(costs[gone], 6)})
                kept = options[gone]
        return kept, log


def _damage(given: TorchModel, kept: tuple[int, ...], batches: Any, ticker: "Ticker") -> float:
    """Return the mean divergence from the answers of `given` when only the layers `kept` are left."""
    import torch

    from converter.reference import feed_of
    from converter.surgery.resize import shallower

    smaller = shallower(given, kept)
    total, count = 0.0, 0
    for batch in batches:
        feed = {n: torch.from_numpy(rows) for n, rows in feed_of(given, [e for _, e in batch]).items()}
        with torch.no_grad():
            distance = given.task.soft_loss(
                smaller.graphs()[MODEL](**feed), given.graphs()[MODEL](**feed), feed["attention_mask"], 1.0
            )
        total, count = total + float(distance) * len(batch), count + len(batch)
        ticker.advance()
    return total / count


def spread(n_kept: int, n_layers: int) -> tuple[int, ...]:
    """Return `n_kept` of `n_layers`, evenly spread, the first and the last among them.

    >>> spread(3, 6), spread(6, 12), spread(1, 6)
    ((0, 2, 5), (0, 2, 4, 6, 8, 11), (0,))
    """
    if n_kept >= n_layers or n_kept < 1:
        return tuple(range(n_layers))
    if n_kept == 1:
        return (0,)
    return tuple(math.floor(i * (n_layers - 1) / (n_kept - 1)) for i in range(n_kept))


def layers_left(stages: "Sequence[Stage[Any, Any]]") -> int | None:
    """Return the layers that these stages leave; None where that depends on the model."""
    known = [s.n_kept for s in stages if isinstance(s, LayerDropping)]
    return known[-1] if known else None
