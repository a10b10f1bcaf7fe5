"""Early exit: texts that an earlier layer is sure of leave there."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.artifact import EXITS, TorchModel
from converter.binding import among, check_ascending, option, span
from converter.errors import RecipeError, UsageError
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from converter.adapt._heads import Judged, Seen
    from converter.examples import Encoding
    from converter.forecast import Forecast
    from converter.model_folder.exits import EarlyExits

NAME = "adapt.exit"
LEARNED = 0.6
"""Of the texts: the others set the thresholds."""
PAYS = 0.95
"""Of the products: what is left above this is taken back by the heads and the branch."""


@dataclass(frozen=True)
class EarlyExit(Stage[TorchModel, TorchModel]):
    """A head behind some layers answers for the whole model where it is confident (DeeBERT, arXiv 2004.12993).

    Heads learn the model's own answers to calibration text; the layers stay as they are. The confidence from which a
    head's answer counts is set on other texts, such that `agreement` with the whole model holds there with 95 %
    confidence. A text's answer is the head's wherever that is confident, whatever texts stand beside it; an ONNX
    package skips the layers behind where all texts of a call leave, so that the gain is one of single texts.

    For classifiers of one label. As a recipe: `compress = [{stage = "adapt.exit", agreement = 0.99}]`
    """

    layers: tuple[int, ...] = option((), "layers behind which texts leave, counted from 0, as in 1+3", low=0)
    depth: float = option(
        0.5, "share of the layers before the exit, where layers names none", low=0.01, high=0.99, search=span(0.2, 0.8)
    )
    agreement: float = option(
        0.99,
        "agreement with the whole model that must hold with 95 % confidence",
        low=0.5,
        high=0.9999,
        search=among(0.98, 0.99, 0.995),
    )
    texts: int = option(4096, "calibration texts: heads learn from 60 % of them, 40 % set the thresholds", low=10)
    epochs: int = option(20, "times that heads see each text", low=1, effort=5)

    name = NAME
    summary = "let texts leave behind an earlier layer where a head there is confident of its answer"
    why_not = "its heads are for classifiers, which answer once a text"
    needs_text = True
    place = 7
    # They change the layers that heads read, or the answers that they learned.
    bars = ("prune.", "share.", "factorize.", "distill.", "trim.", "adapt.")
    why_bars = "texts leave behind its earlier layers"

    def __post_init__(self) -> None:
        check_ascending(self.layers, f"{NAME}.layers")
        if self.layers and self.depth != 0.5:
            raise RecipeError("give layers or depth, not both", where=NAME)

    @classmethod
    def marks(cls, source: TorchModel) -> bool:
        from converter.model_folder.exits import exits_of

        return exits_of(source.module) is not None

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        from converter.surgery.resize import family_of

        if source.task.name != "text-classification" or source.task.sample_kind != "classes":
            raise UsageError(
                f"a head can be confident of one class among several: a model for {source.task.name} of this kind has "
                "no such answer",
                where=NAME,
                hint="leave this step out; prune.tokens and prune.structured make the model faster",
            )
        has_exits = self.marks(source)
        if not family_of(source).layer_loop or has_exits:
            why = "it has exits already" if has_exits else f"{source.config.model_type} is not known to leave early"
            raise UsageError(why, where=NAME, hint="leave this step out for this model")
        if not has_text:
            raise UsageError("there is no text that heads could learn from", where=NAME, hint="give --calibration FILE")

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        return spent(now, passes=min(self.texts, len(ctx.calibration)))

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.adapt._heads import least_texts, look, set_thresholds, train_heads
        from converter.model_folder.exits import EarlyExits

        self.check(given, has_text=not ctx.calibration_is_builtin and bool(ctx.calibration))
        layers = self._layers(given)
        encodings = self._encodings(given, ctx)
        cut = round(len(encodings) * LEARNED)
        needed = least_texts(self.agreement, len(layers))
        if len(encodings) - cut < needed:
            return self._unchanged(
                given,
                ctx,
                f"{len(encodings) - cut} texts are left to set thresholds, and {needed} that all agree are needed to "
                f"show an agreement of {self.agreement:g} with 95 % confidence: give {round(needed / 0.4) + 1} texts, "
                "or a lower agreement",
            )
        with ctx.progress.task("Teaching exits", total=len(encodings) + self.epochs) as ticker:
            learned, held = (look(given, part, layers, ticker) for part in (encodings[:cut], encodings[cut:]))
            exits = EarlyExits(layers, learned.states[0].shape[1], learned.logits.shape[1])
            train_heads(exits, learned, self.epochs, ctx.seed, ticker)
        judged = set_thresholds(exits, learned, held, self.agreement)
        if not any(judged.leaves):
            return self._unchanged(
                given, ctx, f"no threshold keeps an agreement of {self.agreement:g} with 95 % confidence"
            )
        facts = {"texts_learned": cut, **_facts(given, exits, judged, held)}
        if "does_not_pay" in facts:
            ctx.progress.note(f"{NAME}: {facts['does_not_pay']}")
        made = replace(given, module=copy.deepcopy(given.module))
        made.module.add_module(EXITS, exits.eval())
        return Outcome(made, facts)

    def _unchanged(self, given: TorchModel, ctx: Context, why: str) -> Outcome[TorchModel]:
        ctx.progress.note(f"{NAME}: the model is left as it was: {why}")
        return Outcome(given, {"exits": [], "left_as_it_was": why})

    def _layers(self, given: TorchModel) -> tuple[int, ...]:
        from converter.surgery.tokens import loop_of

        n_layers = len(loop_of(given).layer)
        chosen = self.layers or (min(max(round(self.depth * n_layers), 1), n_layers - 1) - 1,)
        if chosen[0] < 0 or chosen[-1] > n_layers - 2:
            raise RecipeError(
                f"an exit stands between layers: the model has {n_layers}, counted from 0, found {chosen[-1]}",
                where=f"{NAME}.layers",
                hint=f"give at most {n_layers - 2}" if n_layers > 1 else "leave this step out",
            )
        return chosen

    def _encodings(self, given: TorchModel, ctx: Context) -> "list[Encoding]":
        """Return the texts in an order that is drawn; none twice, so that no threshold is set on what was learned."""
        different = list({(e.text, e.pair): e for e in ctx.calibration}.values())
        order = np.random.default_rng([ctx.seed, len(different)]).permutation(len(different))[: self.texts]
        return [given.task.encode(given.tokenizer, different[i], given.max_length) for i in order]


def _facts(given: TorchModel, exits: "EarlyExits", judged: "Judged", held: "Seen") -> dict[str, Any]:
    """Return what leaves where, and the products that this leaves, on the texts that set the thresholds."""
    left, worst = _products_left(given, exits, judged.at, held.lengths)
    thresholds = exits.thresholds.tolist()
    made: dict[str, Any] = {
        "exits": [
            {"layer": layer, "threshold": round(threshold, 5), "leave": round(share, 4)}
            for layer, threshold, share in zip(exits.layers, thresholds, judged.leaves, strict=True)
        ],
        "texts_held_out": len(held.lengths),
        "agreement": round(judged.agreement, 5),
        "agreement_at_least": round(judged.agreement_low, 5),
        "products_left": round(left, 4),
        "products_left_at_worst": round(worst, 4),
    }
    if left > PAYS:
        made["does_not_pay"] = (
            f"{sum(judged.leaves):.1%} of the texts leave early, and {left:.1%} of the products are left: leave this "
            "step out, ask for less agreement, or exit behind another layer"
        )
    return made


def _products_left(
    given: TorchModel, exits: "EarlyExits", at: np.ndarray, lengths: Sequence[int]
) -> tuple[float, float]:
    """Return the share of the products that is left on these texts, one a call, and where none leaves."""
    from converter.surgery.tokens import dropping_of, products_at, work_of

    work, spec = work_of(given), dropping_of(given) or {"layers": [], "keep": []}
    shares = dict(zip(spec["layers"], spec["keep"], strict=True))
    head = exits.width * (exits.width + exits.classes)
    whole, spent, worst = 0, 0, 0
    for i, length in zip(at, lengths, strict=True):
        full = products_at(work, length, shares, one_token=True)
        heads = head * min(int(i) + 1, len(exits.layers))
        if i < len(exits.layers):
            depth = exits.layers[int(i)] + 1
            before = {k: s for k, s in shares.items() if k < depth}
            spent += products_at(work[:depth], length, before, one_token=False) + heads
        else:
            spent += full + heads
        whole, worst = whole + full, worst + full + head * len(exits.layers)
    return spent / whole, worst / whole
