"""Structured pruning: whole attention heads and FFN neurons, so every runtime gets faster."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import TorchModel
from converter.binding import option, span
from converter.errors import RecipeError, UsageError
from converter.model_folder.shape_map import LayerShape
from converter.stage import GRADIENTS, Context, Outcome, Stage
from converter.structured.plan import Budget, UnitScores, choose_units, describe_plan

if TYPE_CHECKING:
    from converter.forecast import Forecast
    from converter.stage import Ticker
    from converter.structured.budget import BudgetedCosts
    from converter.structured.importance import Evidence
    from converter.structured.shrink import PruningInputs
    from converter.structured.writer_times import TimedShare
    from converter.structured.writers import SizedShare

RATIO = 0.25
"""Of heads and neurons, where nothing else says how many go."""
LENGTHS = 64
"""Texts by which it is told how long a model that writes text reads, where it is pruned to a time."""


@dataclass(frozen=True)
class StructuredPruning(Stage[TorchModel, TorchModel]):
    """Remove the attention heads and FFN neurons that matter least on real text, and refit those that are kept.

    By share (`heads`, `ffn`): units with the smallest gradient x activation are removed in several steps, measured
    again before each (Michel et al. 2019, arXiv 1905.10650; Molchanov et al. 2019, 1906.10771; Kwon et al. 2022,
    2204.09656). By a goal (`speedup`, `latency_ms`, `size_mb`): the widths of all layers are chosen for the least loss
    within the goal, by times of sub-layers measured on this machine; a layer may lose all its heads or neurons (ZipLM,
    2302.04089). In both cases the kept weights are refitted by least squares to the activations of the unpruned model.
    No labels, no training.

    Models that write text lose query heads with the keys and values that they share, also in the attention to an
    encoder. They are pruned by share, the same of heads and neurons where it follows from a goal: `size_mb`, or
    `speedup` and `latency_ms` of what `phase` names, reading a prompt or writing a further token, by times of
    sub-layers measured on this machine.

    As a recipe: `compress = [{stage = "prune.structured", speedup = 2}]`
    """

    heads: float | None = option(
        None, "share of the attention heads to remove; 0.25 if no goal is given", low=0.0, high=0.95
    )
    ffn: float | None = option(None, "share of the FFN neurons to remove; 0.25 if no goal is given", low=0.0, high=0.95)
    scope: Literal["global", "layer"] = option(
        "global", "rank heads and neurons over the whole model, or within each layer"
    )
    steps: int = option(
        4, "number of pruning steps; importance is measured again before each", low=1, high=64, effort=2
    )
    round_to: int = option(16, "keep a multiple of this many neurons in each layer, where its width allows", low=1)
    texts: int = option(
        1024,
        "calibration texts for the least-squares fit (importance uses 512 of them); more is better and slower",
        low=1,
        effort=64,
    )
    max_length: int = option(128, "longest text in tokens; longer ones are truncated", low=4)
    score: Literal["taylor", "fisher", "magnitude"] = option(
        "taylor",
        "importance: mean absolute (taylor) or squared (fisher) effect on the loss, or size of the output weights",
    )
    loss: Literal["auto", "labels", "answers"] = option(
        "auto", "loss for the importance: the labels if every text has one, else the model's own answers"
    )
    reconstruct: bool = option(
        True, "refit the output weights of what is kept to the activations of the unpruned model (least squares)"
    )
    speedup: float | None = option(
        None,
        "speedup to reach over the unpruned model, by times measured on this machine",
        low=1.01,
        search=span(1.25, 8.0, step=0.25),
    )
    latency_ms: float | None = option(
        None,
        "milliseconds per text (of a model that writes text: of `phase`) to reach, by times measured on this machine",
        low=0.0001,
    )
    phase: Literal["decode", "prefill"] = option(
        "decode",
        "of a model that writes text, what speedup and latency_ms are of: a further token, or reading a prompt",
    )
    size_mb: float | None = option(None, "size of the model file to reach, in megabytes", low=0.0001)
    plan: str | None = option(None, "shape_map.json of another run: remove the same heads and neurons")

    summary = "remove the attention heads and FFN neurons that matter least"
    takes = ("encoder", "decoder", "encoder-decoder")
    needs_text = True
    copies = 3.0
    place = 2

    def __post_init__(self) -> None:
        where = "prune.structured"
        chosen = [n for n in ("speedup", "latency_ms", "size_mb", "plan") if getattr(self, n) is not None]
        if len(chosen) > 1:
            raise RecipeError(f"give {' or '.join(chosen)}, not both", where=where)
        if chosen and (self.heads is not None or self.ffn is not None):
            raise RecipeError(
                f"{chosen[0]} decides how many are removed: heads and ffn cannot be given too",
                where=where,
                hint="leave them out",
            )
        if chosen and self.plan is None and not self.reconstruct:
            raise RecipeError(f"{chosen[0]} needs the refit: it cannot be combined with reconstruct=false", where=where)
        if self.ratios == (0, 0):
            raise RecipeError("heads and ffn are both 0: nothing would be removed", where=where)

    @property
    def ratios(self) -> tuple[float, float]:
        """Shares of heads and neurons to remove."""
        return (RATIO if self.heads is None else self.heads, RATIO if self.ffn is None else self.ffn)

    @property
    def _has_budget(self) -> bool:
        return not (self.speedup is None and self.latency_ms is None and self.size_mb is None)

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        if source.cache is None:
            return
        from converter.surgery.resize import family_of

        family = family_of(source)
        if self.size_mb is not None:
            from converter.structured.writers import refuse_idle_size

            refuse_idle_size(source, self.size_mb, 4)  # what fewer bytes a weight leave is known when it runs
            return
        if self._has_budget:
            return
        if family.fixed_heads and self.heads:
            raise UsageError(
                f"heads of {family.model_type} cannot be removed: {family.fixed_heads}",
                where="prune.structured.heads",
                hint="give ffn alone",
            )
        self._budgets(source)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.structured.importance import gather_evidence, refuse_little
        from converter.structured.plan import load_shapes

        sized = self.share_of_goal(given, ctx) if given.cache is not None and self._has_budget else None
        by_share = sized is not None or not (self._has_budget or self.plan)
        budgets = self._budgets(given, None if sized is None else sized.share) if by_share else ()
        planned = load_shapes(Path(self.plan), given) if self.plan else None
        evidence = gather_evidence(
            given,
            ctx,
            n_texts=self.texts,
            max_length=self.max_length,
            # A budget is spent by what the answers lose: labels would pull toward another model.
            loss="answers" if self._has_budget and sized is None and self.loss == "auto" else self.loss,
            score=self.score,
        )
        if self.reconstruct:
            refuse_little(evidence, "prune.structured", hint="give more text, or reconstruct=false")
        if planned is not None:
            return self._follow(given, ctx, evidence, planned)
        if self._has_budget and sized is None:
            return self._prune_to_budget(given, ctx, evidence)
        made = self._remove(given, ctx, evidence, *budgets)
        return made if sized is None else replace(made, facts={**made.facts, **sized.facts(made.made)})

    def needs_whole(self) -> str:
        return GRADIENTS

    def share_of_goal(self, given: TorchModel, ctx: Context) -> "SizedShare | TimedShare":
        """Return the share of heads and neurons that a model that writes text loses to reach its goal."""
        from converter.structured.importance import choose_texts
        from converter.structured.writer_times import share_of_time
        from converter.structured.writers import refuse_idle_size, share_of_size

        if self.size_mb is not None:
            stored = ctx.aim.precision.bytes_a_weight if ctx.aim else 1
            refuse_idle_size(given, self.size_mb, stored)
            return share_of_size(given, self.size_mb, stored)
        encodings = (given.task.encode(given.tokenizer, e, self.max_length) for e in choose_texts(ctx, LENGTHS))
        return share_of_time(given, ctx, [e.length for e in encodings], self.phase, self.speedup, self.latency_ms)

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.structured.forecast import by_budget, by_share

        if self.plan is not None:
            return now
        return by_budget(self, now, model, ctx) if self._has_budget else by_share(self, now, model)

    def _budgets(self, given: TorchModel, of_each: float | None = None) -> tuple[Budget, Budget]:
        """Return how many heads and neurons go: the shares that are wanted, or the share `of_each`."""
        from converter.surgery.resize import family_of

        family = family_of(given)
        parts = family.layers(given.module)
        numbers = (*(p.n_heads for p in parts), *(p.cross.n_heads for p in parts if p.cross))
        # Unless it is asked for: where all heads share one key and value, there is one group a layer.
        fixed = family.writes and self.heads is None and max(numbers) == 1
        wanted = self.ratios if of_each is None else (of_each, of_each)
        heads = Budget(numbers, 0.0 if family.fixed_heads or fixed else wanted[0], 1, self.scope)
        neurons = Budget(tuple(p.n_neurons for p in parts), wanted[1], self.round_to, self.scope)
        if of_each is None:
            heads.refuse_nothing("heads")
            neurons.refuse_nothing("ffn")
        return heads, neurons

    def _remove(
        self, given: TorchModel, ctx: Context, evidence: "Evidence", heads: Budget, neurons: Budget
    ) -> Outcome[TorchModel]:
        """Remove the shares that were asked for."""
        made, first = self._shrink(given, ctx, evidence, heads, neurons)
        if self.reconstruct:
            made = self._fit(given, ctx, evidence, made)
        return self._outcome(given, made, ctx, evidence, first)

    def _prune_to_budget(self, given: TorchModel, ctx: Context, evidence: "Evidence") -> Outcome[TorchModel]:
        """Remove as much as the budget wants, where it is missed least."""
        from converter.structured.shrink import search_stride, shrink
        from converter.surgery.resize import family_of

        costs = self._budgeted_costs(given, ctx)
        n_sublayers = 2 * len(family_of(given).layers(given.module))
        n_searched = len(evidence.batches[:: search_stride(evidence)])
        total = len(evidence.batches) + n_searched * self.steps + n_sublayers * (2 * self.steps - 1)
        with ctx.progress.task("Choosing heads and neurons", total=total) as ticker:
            inputs = self._inputs(given, ctx, evidence, ticker)
            found = shrink(inputs, costs.table, costs.wanted, self.steps, self.round_to, ticker, ctx.shared)
        made = self._fit(given, ctx, evidence, found.made, inputs)
        widths = [(p.n_heads, p.n_neurons) for p in family_of(made).layers(made.module)]
        outcome = self._outcome(given, made, ctx, evidence, found.first)
        return replace(outcome, facts={**outcome.facts, **costs.facts(widths, missed=found.missed)})

    def _follow(
        self, given: TorchModel, ctx: Context, evidence: "Evidence", shapes: Sequence[LayerShape]
    ) -> Outcome[TorchModel]:
        """Remove what another run removed."""
        from converter.surgery.resize import resized

        made = resized(given, shapes)
        if self.reconstruct:
            made = self._fit(given, ctx, evidence, made)
        return self._outcome(given, made, ctx, evidence, ())

    def _budgeted_costs(self, given: TorchModel, ctx: Context) -> "BudgetedCosts":
        from converter.structured.budget import costs_of_size, costs_of_time

        if self.size_mb is not None:
            return costs_of_size(given, ctx, self.size_mb)
        return costs_of_time(given, ctx, self.speedup, self.latency_ms)

    def _inputs(self, given: TorchModel, ctx: Context, evidence: "Evidence", ticker: "Ticker") -> "PruningInputs":
        from converter.structured.shrink import collect_inputs

        if self.loss == "auto":
            # What is fitted follows the model's own answers however the units were chosen: a plan is applied alike.
            evidence = replace(evidence, by_labels=False)
        return collect_inputs(given, evidence, ctx.work / "sums", ticker)

    def _fit(
        self,
        given: TorchModel,
        ctx: Context,
        evidence: "Evidence",
        cut: TorchModel,
        inputs: "PruningInputs | None" = None,
    ) -> TorchModel:
        """Return `given` cut as `cut` is, and fitted: the weights follow from the decision, however it was found."""
        import shutil

        from converter.structured.shrink import PASSES, fitted
        from converter.surgery.resize import family_of, places_of

        if given.cache is not None:
            from converter.structured.writers import refitted

            return refitted(given, cut, evidence, ctx.progress)
        n_sublayers = 2 * len(family_of(given).layers(given.module))
        total = PASSES * (n_sublayers + len(evidence.batches)) + (0 if inputs else len(evidence.batches))
        with ctx.progress.task("Refitting what is kept", total=total) as ticker:
            inputs = inputs or self._inputs(given, ctx, evidence, ticker)
            made = fitted(inputs, places_of(given, cut), ticker)
        shutil.rmtree(inputs.sums.folder)
        return made

    def _shrink(
        self, given: TorchModel, ctx: Context, evidence: "Evidence", heads: Budget, neurons: Budget
    ) -> tuple[TorchModel, tuple[UnitScores, ...]]:
        """Return the pruned copy, and the importance of all units before the first step."""
        import copy

        from converter.structured.importance import measure_importance
        from converter.surgery.resize import family_of, resized_in_place

        made = replace(given, module=copy.deepcopy(given.module))
        first: tuple[UnitScores, ...] = ()
        with ctx.progress.task("Measuring heads and neurons", total=self.steps * len(evidence.batches)) as ticker:
            for step in range(1, self.steps + 1):
                scores = measure_importance(made, given, evidence, ticker)
                first = first or scores
                parts = family_of(made).layers(made.module)
                spent = step / self.steps
                # Heads of an attention to an encoder compete with all the others.
                across = [i for i, p in enumerate(parts) if p.cross]
                of_heads = [*(s.heads for s in scores), *(scores[i].cross for i in across)]
                kept_heads = choose_units(heads, of_heads, list(map(len, of_heads)), spent)
                kept_neurons = choose_units(neurons, [s.neurons for s in scores], [p.n_neurons for p in parts], spent)
                kept_cross = dict(zip(across, kept_heads[len(parts) :], strict=True))
                rows = zip(kept_heads[: len(parts)], kept_neurons, strict=True)
                keep = [LayerShape(h, n, kept_cross.get(i, ())) for i, (h, n) in enumerate(rows)]
                made = resized_in_place(made, keep)
        return made, first

    def _outcome(
        self,
        given: TorchModel,
        made: TorchModel,
        ctx: Context,
        evidence: "Evidence",
        first: tuple[UnitScores, ...],
    ) -> Outcome[TorchModel]:
        from converter.surgery.count import n_parameters
        from converter.surgery.resize import shape_map_of

        facts: dict[str, Any] = {
            "plan": describe_plan(shape_map_of(given), shape_map_of(made), first).as_facts(),
            "texts": evidence.n_texts,
            "tokens": evidence.n_tokens,
            "texts_are_builtin": ctx.calibration_is_builtin,
            "loss": "labels" if evidence.by_labels else "answers",
            "parameters_before": n_parameters(given),
            "parameters_after": n_parameters(made),
        }
        return Outcome(made, facts)
