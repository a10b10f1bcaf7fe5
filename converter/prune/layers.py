"""Fewer layers: a shallower copy, as it is or as the student of a distillation."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import TorchModel
from converter.binding import among, check_ascending, option
from converter.errors import RecipeError
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

    Of an encoder-decoder each stack is cut apart: the encoder runs once and the decoder for every token, so a deep
    encoder with a shallow decoder writes fastest for what it loses (Kasai et al., arXiv 2006.10369).

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
    encoder: int = option(0, "layers to keep of the encoder of an encoder-decoder; 0: all", low=0)
    decoder: int = option(0, "layers to keep of the decoder of an encoder-decoder; 0: all", low=0)

    summary = "remove whole layers"
    takes = ("encoder", "decoder", "encoder-decoder")
    place = 2

    def __post_init__(self) -> None:
        if self.keep and self.indices:
            raise RecipeError("give keep or indices, not both", where="prune.layers")
        if (self.keep or self.indices) and self._of_stacks:
            raise RecipeError("give keep or indices, or encoder and decoder, not both", where="prune.layers")
        if self.indices and self.choose == "damage":
            raise RecipeError(
                "indices already name the layers to keep: choose has no effect",
                where="prune.layers",
                hint="give keep and choose, or indices alone",
            )
        check_ascending(self.indices, "prune.layers.indices")

    @property
    def _of_stacks(self) -> bool:
        return bool(self.encoder or self.decoder)

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        self._wanted(source)

    def needs_whole(self) -> str:
        return "" if self.choose == "even" or self.indices else super().needs_whole()

    def check_after(self, before: "Sequence[Stage[Any, Any]]") -> None:
        left = layers_left(before)
        if left is not None and (self.keep or self.indices):
            self._of_one(left)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.surgery.count import n_parameters
        from converter.surgery.resize import family_of, shallower, shape_map_of

        wanted = self._wanted(given)
        facts: dict[str, Any] = {}
        # Where all layers are one, every drop leaves the same model.
        if self.choose == "damage" and not family_of(given).shares_layers:
            wanted, facts["damage"] = self._least_damage(given, ctx, wanted)
        made = shallower(given, wanted)
        assert made.shape_map is not None
        stacks = family_of(made).stacks(made.module)
        facts |= {
            "layers_before": len(shape_map_of(given).layers_kept),
            "layers_kept": list(made.shape_map.layers_kept),
            **({"stacks": {stack.name: stack.n_layers for stack in stacks}} if len(stacks) > 1 else {}),
            "parameters_before": n_parameters(given),
            "parameters_after": n_parameters(made),
        }
        return Outcome(made, facts)

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.structured.forecast import by_layers
        from converter.surgery.resize import family_of

        kept = self._wanted(model)
        return now if family_of(model).shares_layers else by_layers(now, model, kept, self.texts)

    @property
    def n_kept(self) -> int | None:
        """Layers that will be left; None where it is half of what there are, or depends on the stack."""
        return len(self.indices) or self.keep or None

    def _wanted(self, model: TorchModel) -> tuple[int, ...]:
        """Return the layers to keep: as many as wanted, evenly spread over each stack."""
        from converter.surgery.resize import family_of, shape_map_of

        stacks = family_of(model).stacks(model.module)
        if len(stacks) == 1:
            if self._of_stacks:
                raise RecipeError(
                    "the model has one stack of layers: encoder and decoder are for an encoder-decoder",
                    where="prune.layers",
                    hint="give keep or indices",
                )
            return self._of_one(len(shape_map_of(model).layers_kept))
        if self.indices:
            return self._of_one(sum(stack.n_layers for stack in stacks))
        if not self._of_stacks:
            told = " and ".join(f"{stack.n_layers} of the {stack.name}" for stack in stacks)
            raise RecipeError(
                f"the model has two stacks of layers ({told}), and nothing says which of them is cut",
                where="prune.layers",
                hint="decoder=2 keeps two of the decoder's; encoder=N does the same for the encoder's",
            )
        made: list[int] = []
        begin = 0
        for stack in stacks:
            n_kept = getattr(self, stack.name) or stack.n_layers
            refuse_deeper(n_kept, stack.n_layers, f"prune.layers.{stack.name}")
            made += [begin + i for i in spread(n_kept, stack.n_layers)]
            begin += stack.n_layers
        return self._fewer(tuple(made), begin)

    def _of_one(self, n_layers: int) -> tuple[int, ...]:
        if self.indices:
            if self.indices[-1] >= n_layers:
                raise RecipeError(
                    f"there is no layer {self.indices[-1]}: layers are numbered 0 to {n_layers - 1}",
                    where="prune.layers.indices",
                )
            return self._fewer(self.indices, n_layers)
        refuse_deeper(self.keep, n_layers, "prune.layers.keep")
        return self._fewer(spread(self.keep or math.ceil(n_layers / 2), n_layers), n_layers)

    def _fewer(self, kept: tuple[int, ...], n_layers: int) -> tuple[int, ...]:
        if len(kept) == n_layers:
            raise RecipeError(f"all {n_layers} layers would be kept", where="prune.layers", hint="keep fewer")
        return kept

    def _least_damage(
        self, given: TorchModel, ctx: Context, wanted: tuple[int, ...]
    ) -> tuple[tuple[int, ...], list[dict[str, float]]]:
        """Drop greedily, as many of each stack as `wanted` lacks; returns the kept layers and what each drop cost."""
        from converter.structured.importance import gather_evidence
        from converter.surgery.resize import family_of, shape_map_of

        evidence = gather_evidence(given, ctx, n_texts=self.texts, max_length=128, loss="answers", score="taylor")
        kept = tuple(range(len(shape_map_of(given).layers_kept)))
        stack_of = [i for i, stack in enumerate(family_of(given).stacks(given.module)) for _ in range(stack.n_layers)]
        stack_of = stack_of if len(stack_of) == len(kept) else [0] * len(kept)
        log: list[dict[str, float]] = []
        tries = sum(range(len(wanted) + 1, len(kept) + 1))
        with ctx.progress.task("Measuring layers", total=tries * len(evidence.batches)) as ticker:
            while len(kept) > len(wanted):
                spare = [i for i in kept if _of(stack_of, stack_of[i], kept) > _of(stack_of, stack_of[i], wanted)]
                options = {i: tuple(k for k in kept if k != i) for i in spare}
                costs = {i: _damage(given, left, evidence.batches, ticker) for i, left in options.items()}
                gone = min(costs, key=lambda i: costs[i])
                log.append({"dropped": gone, "distance": round(costs[gone], 6)})
                kept = options[gone]
        return kept, log


def _of(stack_of: "Sequence[int]", stack: int, layers: "Sequence[int]") -> int:
    return sum(stack_of[i] == stack for i in layers)


def refuse_deeper(wanted: int, n_layers: int, where: str) -> None:
    """Raise `RecipeError` where more layers are to be kept than there are: no student is deeper than its teacher."""
    if wanted > n_layers:
        raise RecipeError(
            f"{wanted} layers are to be kept, and the model has {n_layers}: a student is no deeper than its teacher",
            where=where,
            hint=f"give less than {n_layers}",
        )


def _damage(given: TorchModel, kept: tuple[int, ...], batches: Any, ticker: "Ticker") -> float:
    """Return the mean divergence from the answers of `given` when only the layers `kept` are left."""
    import torch

    from converter.reference import feed_of
    from converter.surgery.resize import shallower

    smaller = shallower(given, kept)
    total, count = 0.0, 0
    for batch in batches:
        encodings = [encoding for _, encoding in batch]
        feed = {n: torch.from_numpy(rows) for n, rows in feed_of(given, encodings).items()}
        steps = given.task.learned_steps(feed, encodings)
        with torch.no_grad():
            distance = given.task.soft_loss(smaller.whole()(**feed), given.whole()(**feed), steps, 1.0)
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
