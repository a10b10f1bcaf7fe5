"""Structured pruning: whole attention heads and FFN neurons, so every runtime gets faster."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import TorchModel
from converter.binding import option
from converter.errors import RecipeError
from converter.prune._plan import Budget, UnitScores, choose_units, describe_plan
from converter.shape import LayerShape
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from converter.prune._importance import Evidence


@dataclass(frozen=True)
class StructuredPruning(Stage[TorchModel, TorchModel]):
    """Remove the heads and neurons that matter least to first order (gradient x activation) on real text.

    Michel et al. 2019 (arXiv 1905.10650), Molchanov et al. 2019 (1906.10771), Kwon et al. 2022 (2204.09656). In
    several steps importance is measured anew after each: what is left takes over what is gone (TextPruner).

    As a recipe: `compress = [{stage = "prune.structured", heads = 0.25, ffn = 0.5}]`
    """

    heads: float = option(0.25, "share of the attention heads to remove", low=0.0, high=0.95)
    ffn: float = option(0.25, "share of the FFN neurons to remove", low=0.0, high=0.95)
    scope: Literal["global", "layer"] = option("global", "compete over the whole model, or in each layer alone")
    steps: int = option(4, "measure importance anew this many times", low=1, high=64)
    round_to: int = option(16, "neurons left in a layer are a multiple of this, where its width allows", low=1)
    texts: int = option(256, "texts to measure on", low=1)
    max_length: int = option(128, "tokens of each text", low=4)
    score: Literal["taylor", "fisher"] = option("taylor", "mean absolute (taylor) or mean squared (fisher) effect")
    loss: Literal["auto", "labels", "answers"] = option(
        "auto", "labels where every text has one, else the model's own answers"
    )

    summary = "remove the attention heads and FFN neurons that matter least"
    needs_text = True

    def __post_init__(self) -> None:
        if self.heads == 0 and self.ffn == 0:
            raise RecipeError("heads and ffn are both 0: nothing would be removed", where="prune.structured")

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.prune._importance import gather_evidence
        from converter.resize import family_of, shape_map_of

        parts = family_of(given).layers(given.module)
        heads = Budget(tuple(p.n_heads for p in parts), self.heads, 1, self.scope)
        neurons = Budget(tuple(p.n_neurons for p in parts), self.ffn, self.round_to, self.scope)
        heads.refuse_nothing("heads")
        neurons.refuse_nothing("ffn")
        evidence = gather_evidence(
            given, ctx, n_texts=self.texts, max_length=self.max_length, loss=self.loss, score=self.score
        )
        made, first = self._shrink(given, ctx, evidence, heads, neurons)
        plan = describe_plan(shape_map_of(given), shape_map_of(made), first)
        return Outcome(made, {"plan": plan.as_facts(), **self._facts(given, made, ctx, evidence)})

    def _shrink(
        self, given: TorchModel, ctx: Context, evidence: "Evidence", heads: Budget, neurons: Budget
    ) -> tuple[TorchModel, tuple[UnitScores, ...]]:
        """Return the pruned copy, and the importance of all units before the first step."""
        import copy

        from converter.prune._importance import measure_importance
        from converter.resize import family_of, resized_in_place

        made = replace(given, module=copy.deepcopy(given.module))
        first: tuple[UnitScores, ...] = ()
        with ctx.progress.task("Measuring heads and neurons", total=self.steps * len(evidence.batches)) as ticker:
            for step in range(1, self.steps + 1):
                scores = measure_importance(made, given, evidence, ticker)
                first = first or scores
                parts = family_of(made).layers(made.module)
                spent = step / self.steps
                kept_heads = choose_units(heads, [s.heads for s in scores], [p.n_heads for p in parts], spent)
                kept_neurons = choose_units(neurons, [s.neurons for s in scores], [p.n_neurons for p in parts], spent)
                keep = [LayerShape(h, n) for h, n in zip(kept_heads, kept_neurons, strict=True)]
                made = resized_in_place(made, keep)
        return made, first

    def _facts(self, given: TorchModel, made: TorchModel, ctx: Context, evidence: "Evidence") -> dict[str, Any]:
        from converter.prune._count import n_parameters

        return {
            "texts": evidence.n_texts,
            "texts_are_builtin": ctx.calibration_is_builtin,
            "loss": "labels" if evidence.by_labels else "answers",
            "parameters_before": n_parameters(given),
            "parameters_after": n_parameters(made),
        }
