"""The embedding as the product of a narrow table and one small matrix."""

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from converter.artifact import TorchModel
from converter.binding import among, option
from converter.errors import RecipeError
from converter.share.codebook import name_of_embedding, refuse_tied
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from converter.forecast import Forecast

NAME = "factorize.embeddings"


@dataclass(frozen=True)
class EmbeddingFactors(Stage[TorchModel, TorchModel]):
    """A table of `rank` columns times a matrix `[rank, width]`, fitted to the rows weighted by their use in real text.

    ALBERT and ELECTRA-small are built this way; in other models, most directions of the embedding matter. Weighting by
    token frequency makes the difference: at half the rank of MiniLM-L6 fine-tuned on SST-2, a plain SVD changes 11 % of
    the answers to other text (dev), this 4 %. A codebook of the same size (`share.codebook`) changes 1 %. The record
    shows what was saved and what was lost.

    As a recipe: `compress = [{stage = "factorize.embeddings", rank = 256}, {stage = "distill.soft"}]`
    """

    rank: int = option(
        0, "rank: columns of the narrow table; 0: half the embedding width", low=0, search=among(0, 64, 96, 128)
    )

    name = NAME
    summary = "low-rank embedding: a narrow table times a small matrix"
    why_not = (
        "the embedding of a model that writes text is its output layer too, and its rows are compared with every state"
    )
    needs_text = True
    place = 3
    bars = ("trim.", "share.codebook", "factorize.embeddings")

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        refuse_tied(source, NAME)
        rows, width = source.module.get_input_embeddings().weight.shape  # type: ignore[operator]
        limit = rows * width // (rows + width)
        if self._rank(width) > limit:
            raise RecipeError(
                f"rank {self.rank} saves nothing: {rows} x {width} breaks even at {limit}", where=f"{NAME}.rank"
            )

    def _rank(self, width: int) -> int:
        return self.rank or width // 2

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import Table, spent

        rows, width = now.table.rows, now.table.width
        rank = self._rank(width)
        made = replace(now, table=Table(rows, rank, rows * rank), matrices=now.matrices + rank * width)
        return spent(made, passes=2 * 64)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        import torch

        from converter.factorize._rank import factor_rows
        from converter.model_folder.replacements import LowRankEmbedding, put
        from converter.validate.cost import cost_of

        self.check(given, has_text=True)
        table = given.module.get_input_embeddings()  # type: ignore[operator]
        rows = table.weight.detach()
        rank = self._rank(rows.shape[1])
        with torch.no_grad(), ctx.progress.task("Factoring the embedding"):
            weights = _frequencies(given, ctx)
            narrow, wide = factor_rows(rows, weights, rank)
            part = LowRankEmbedding((len(rows), rows.shape[1]), rank, table.padding_idx)
            part.narrow.weight.copy_(narrow)
            part.wide.weight.copy_(wide.T)
            lost = float((weights * (rows - narrow @ wide).pow(2).sum(1)).sum() / (weights * rows.pow(2).sum(1)).sum())
        made = replace(given, module=copy.deepcopy(given.module))
        put(made.module, name_of_embedding(made.module), part.eval())
        facts: dict[str, Any] = {
            "rank": rank,
            "parameters_before": rows.numel(),
            "parameters_after": narrow.numel() + wide.numel(),
            "energy_lost": round(lost, 4),
            "cost": cost_of(given, made, ctx),
            "note": "share.codebook saves as much of an int8 package at a far smaller error, unless training follows",
        }
        return Outcome(made, facts)


def _frequencies(given: TorchModel, ctx: Context) -> Any:
    """Return how often each token occurs, plus one for tokens that the text lacks."""
    import torch

    from converter.surgery.token_usage import count_tokens, texts_of

    texts = list(texts_of(ctx.calibration, given.tokenizer.mask_token))
    with ctx.progress.task("Counting tokens", total=len(texts)) as ticker:
        counts = count_tokens(given.tokenizer, texts, ticker)
    made = torch.ones(given.module.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    for token, n in counts.items():
        made[token] += n
    return made
