"""A budget of time or size: what is wanted, what the whole model takes, and what a plan would."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from converter.errors import RecipeError, UsageError
from converter.registry import target_class
from converter.structured.costs import CostTable, latency_table, natural_lengths, size_table
from converter.structured.kernels import Dimensions, Products
from converter.surgery.count import n_parameters
from converter.surgery.resize import family_of

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Context

TEXTS = 512
"""Calibration texts whose lengths stand for all of it: however many a stage learns from, one table tells its times."""


@dataclass(frozen=True)
class BudgetedCosts:
    """A table of costs, what the whole model costs by it, and the budget."""

    table: CostTable
    full: float
    """What the model takes as it is given."""
    wanted: float

    def facts(self, widths: Sequence[tuple[int, int]], *, missed: bool) -> dict[str, Any]:
        """Return what a plan takes by the table; `missed` where even the least is too much."""
        found = self.table.total(widths)
        made: dict[str, Any] = {
            "unit": self.table.unit,
            "source": round(self.full, 4),
            "wanted": round(self.wanted, 4),
            "found": round(found, 4),
            "speedup" if self.table.unit == "ms" else "times_smaller": round(self.full / found, 3),
            "fixed": round(self.table.fixed, 4),
            **self.table.about,
        }
        facts: dict[str, Any] = {"budget": made}
        if missed:
            facts["budget_missed"] = (
                f"{found:.3g} {self.table.unit} is the lowest that can be reached, {self.wanted:.3g} was requested "
                f"({found / self.wanted:.2f} times as much)"
            )
        return facts


def costs_of_size(given: "TorchModel", ctx: "Context", megabytes: float) -> BudgetedCosts:
    """Return the costs of a package of at most `megabytes`, as the run's first target stores its weights."""
    parts = family_of(given).layers(given.module)
    widths = [(p.n_heads, p.n_neurons) for p in parts]
    width = ctx.aim.precision.bytes_a_weight if ctx.aim else 1
    table = size_table(_dimensions(given), n_parameters(given), widths, width)
    return _refuse_idle(BudgetedCosts(table, table.total(widths), megabytes), f"size_mb={megabytes:g}")


def costs_of_time(
    given: "TorchModel", ctx: "Context", speedup: float | None, milliseconds: float | None
) -> BudgetedCosts:
    """Return the costs within `milliseconds` a text, or within the model's own time over `speedup`.

    Times are those of ONNX Runtime on this machine at the lengths of the text, one thread, in the precision of the
    run's first target; where its target has another runtime, the facts say for what they stand in.
    """
    table = time_table(given, ctx)
    full = table.total([(p.n_heads, p.n_neurons) for p in family_of(given).layers(given.module)])
    wanted = full / speedup if speedup is not None else milliseconds or 0.0
    asked = f"speedup={speedup:g}" if speedup is not None else f"latency_ms={milliseconds:g}"
    return _refuse_idle(BudgetedCosts(table, full, wanted), asked)


def time_table(given: "TorchModel", ctx: "Context") -> CostTable:
    """Return milliseconds by width at the natural lengths of the calibration text, timed here or known already."""
    from converter.structured.head_reads import reads_one_token
    from converter.structured.importance import choose_texts

    family = family_of(given)
    if family.writes:
        raise UsageError(
            "times of sub-layers are known for encoders: a model that writes text is timed as a whole (bench)",
            hint="give shares to remove: heads=0.25, ffn=0.5",
        )
    parts = family.layers(given.module)
    widest = max(p.n_heads for p in parts), max(p.n_neurons for p in parts)
    dimensions = replace(_dimensions(given), one_token=reads_one_token(given))
    texts = choose_texts(ctx, TEXTS)
    lengths = natural_lengths([given.task.encode(given.tokenizer, e, given.max_length).length for e in texts])
    table = latency_table(dimensions, _products(ctx), widest, lengths, ctx.progress, ctx.measured, ctx.alone)
    if ctx.aim is not None and not target_class(ctx.aim.target).timed:
        # Said, not hidden: another runtime has other kernels.
        table = replace(table, about={**table.about, "stands_in_for": ctx.aim.target})
    return table.times(dimensions.layers) if family.shares_layers else table


def _refuse_idle(costs: BudgetedCosts, asked: str) -> BudgetedCosts:
    if costs.wanted >= costs.full:
        raise RecipeError(
            f"{asked} has no effect: the model already takes {costs.full:.3g} {costs.table.unit} as it is",
            hint="ask for less",
        )
    return costs


def _products(ctx: "Context") -> Products:
    if ctx.aim is not None and ctx.aim.precision.bytes_a_weight > 1:
        return "float"
    return "dynamic" if ctx.aim is not None and ctx.aim.precision.name == "dynamic" else "static"


def _dimensions(given: "TorchModel") -> Dimensions:
    parts = family_of(given).layers(given.module)
    part = max(parts, key=lambda p: p.n_neurons)
    return Dimensions(
        hidden=part.attention_output.out_features,
        head_dim=part.head_dim,
        ffn_blocks=part.ffn_input.out_features // max(1, part.n_neurons),
        embeddings=min(int(given.config.vocab_size), 65536),
        layers=int(given.config.num_hidden_layers) if family_of(given).shares_layers else len(parts),
    )
