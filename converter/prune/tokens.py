"""Token pruning: layers drop the tokens of a text that matter least, so that later layers have fewer to work on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from converter.artifact import TorchModel
from converter.binding import among, check_ascending, option, span
from converter.errors import RecipeError, UsageError
from converter.model_folder.token_shares import WHOLE, left_of
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from converter.surgery.tokens import LayerWork

NAME = "prune.tokens"
STEP = 5
"""Thousandths between the shares that a goal of products is met with."""
LEAST = 50
"""Thousandths: a layer that drops keeps no less than this to meet a goal."""
TEXTS = 256
PAYS = 0.95
"""Of the products: what is left above this is taken back by choosing the tokens."""


@dataclass(frozen=True)
class TokenPruning(Stage[TorchModel, TorchModel]):
    """Drop the tokens that are attended to least, layer after layer (PoWER-BERT, arXiv 2001.08950; LTP, 2107.00910).

    Each layer from `first_layer` on keeps the share `keep` of its tokens between its attention and its FFN, those with
    the highest score; the first token always stays. How many are kept depends on the text's own length alone, so that
    an answer does not depend on other texts of its batch. Where every token has an output (embeddings, question
    answering), a dropped one gives the last state it had.

    Long texts gain most; at 26 tokens a text there is little to gain. `distill.soft` behind it recovers what is lost
    (ToP, 2306.14393). As a recipe: `compress = [{stage = "prune.tokens", keep = 0.7}, {stage = "distill.soft"}]`
    """

    keep: float = option(
        0.7,
        "share of its tokens that each of these layers keeps of a text",
        low=0.01,
        high=1.0,
        search=span(0.4, 0.95, step=0.05),
    )
    first_layer: int = option(1, "the first layer that drops tokens, counted from 0", low=0, search=span(0, 3, step=1))
    layers: tuple[int, ...] = option((), "exactly the layers that drop tokens, counted from 0, as in 1+3", low=0)
    score: Literal["attention", "values", "first"] = option(
        "attention",
        "rank by the attention that all tokens give (attention), times the size of what is read there (values), or by "
        "what the first token gives (first)",
        search=among("attention", "values", "first"),
    )
    products: float | None = option(
        None,
        "choose keep so that this share of the products is left at the lengths of the calibration text",
        low=0.01,
        high=0.99,
    )

    name = NAME
    summary = "let layers drop the tokens of a text that matter least"
    why_not = "a model that writes text keeps keys and values of every token"
    place = 4
    # They cut or fit layers by what flows through them, token by token.
    bars = ("prune.", "distill.gradual", "factorize.linears", "share.layers")
    why_bars = "its layers drop tokens"

    def __post_init__(self) -> None:
        if self.layers and self.first_layer != 1:
            raise RecipeError("give first_layer or layers, not both", where=NAME)
        check_ascending(self.layers, f"{NAME}.layers")
        if self.products is not None and self.keep != 0.7:
            raise RecipeError("products already decides keep: give one of them", where=NAME)
        if self.products is None and round(self.keep * WHOLE) == WHOLE:
            raise RecipeError("all tokens would be kept", where=f"{NAME}.keep", hint="give less than 1, as in keep=0.7")

    @classmethod
    def marks(cls, source: TorchModel) -> bool:
        from converter.surgery.tokens import dropping_of

        return dropping_of(source) is not None

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        from converter.surgery.tokens import refuse_dropping

        refuse_dropping(source, NAME)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.structured.importance import choose_texts
        from converter.surgery.tokens import reads_one_token, with_dropping, work_of

        self.check(given, has_text=True)
        one_token = reads_one_token(given)
        work = work_of(given)
        layers = self._layers(work, one_token=one_token)
        texts = choose_texts(ctx, TEXTS)
        lengths = [given.task.encode(given.tokenizer, e, given.max_length).length for e in texts]
        share = round(self.keep * WHOLE)
        if self.products is not None:
            share = _share_for(self.products, work, layers, lengths, one_token=one_token)
        shares = dict.fromkeys(layers, share)
        facts = {
            "layers": list(layers),
            "keep": share / WHOLE,
            "score": self.score,
            "restores_dropped_tokens": not one_token,
            **_effect(work, shares, lengths, one_token=one_token),
            "texts_are_builtin": ctx.calibration_is_builtin,
        }
        if "does_not_pay" in facts:
            ctx.progress.note(f"{NAME}: {facts['does_not_pay']}")
        return Outcome(with_dropping(given, shares, self.score), facts)

    def _layers(self, work: "Sequence[LayerWork]", *, one_token: bool) -> tuple[int, ...]:
        """Return the layers that drop tokens.

        Behind the attention of the last layer a classifier reads one token anyway.
        """
        n_layers = len(work)
        last = n_layers - 2 if one_token else n_layers - 1
        chosen = self.layers or tuple(range(self.first_layer, last + 1))
        if not chosen or chosen[-1] > last:
            given, found = ("layers", chosen[-1]) if self.layers else ("first_layer", self.first_layer)
            raise RecipeError(
                f"the last layer that can drop tokens for others to save work is {last}, found {found}: the model has "
                f"{n_layers} layers, counted from 0",
                where=f"{NAME}.{given}",
                hint=f"give at most {last}" if last >= 0 else "leave this step out",
            )
        without = [i for i in chosen if not work[i].width]
        if without:
            raise UsageError(
                f"layer {without[0]} has no attention left that could rank tokens",
                where=f"{NAME}.layers",
                hint="name other layers, as in layers=1+3",
            )
        return chosen


def _share_for(
    goal: float, work: "Sequence[LayerWork]", layers: Sequence[int], lengths: Sequence[int], *, one_token: bool
) -> int:
    """Return the largest share, in thousandths, that leaves no more than `goal` of the products.

    Raises:
        UsageError: none does.

    """
    reached = 1.0
    for share in range(WHOLE - STEP, LEAST - 1, -STEP):
        reached = _left(work, dict.fromkeys(layers, share), lengths, one_token=one_token)
        if reached <= goal:
            return share
    raise UsageError(
        f"{reached:.2f} is the least share of the products that dropping tokens leaves here, {goal:g} is wanted",
        where=f"{NAME}.products",
        hint="start at an earlier layer (first_layer=0), or remove heads and neurons too: prune.structured",
    )


def _left(work: "Sequence[LayerWork]", shares: Mapping[int, int], lengths: Sequence[int], *, one_token: bool) -> float:
    from converter.surgery.tokens import products_at

    before, after = (sum(products_at(work, n, s, one_token=one_token) for n in lengths) for s in ({}, shares))
    return after / before


def _effect(
    work: "Sequence[LayerWork]", shares: Mapping[int, int], lengths: Sequence[int], *, one_token: bool
) -> dict[str, Any]:
    """Return what is left of tokens and products at the lengths of the text, in all and by length."""
    from converter.surgery.tokens import products_at

    def left(length: int) -> int:
        for share in shares.values():
            length = left_of(length, share)
        return length

    typical = sorted({int(n) for n in np.quantile(lengths, (0.1, 0.5, 0.9), method="nearest")})
    share = _left(work, shares, lengths, one_token=one_token)
    made: dict[str, Any] = {
        "texts": len(lengths),
        "tokens": float(np.mean(lengths)),
        "tokens_behind_the_last": float(np.mean([left(n) for n in lengths])),
        "products": float(np.mean([products_at(work, n, {}, one_token=one_token) for n in lengths])),
        "products_left": round(share, 4),
        "by_length": [
            {"tokens": n, "left": left(n), "products_left": round(_left(work, shares, [n], one_token=one_token), 4)}
            for n in typical
        ],
    }
    if share > PAYS:
        made["does_not_pay"] = (
            f"at the lengths of this text (mean {np.mean(lengths):.0f} tokens) {share:.1%} of the products are left, "
            "and choosing the tokens takes time of its own: leave this step out, or keep fewer"
        )
    return made
