"""What a model that writes text takes of time, by the width of its sublayers: reading a prompt, and a further token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.errors import RecipeError
from converter.forecast import forecast_of
from converter.registry import target_class
from converter.structured.costs import cost_on, curve_of, natural_lengths, timed_once
from converter.structured.writer_kernels import PHASES, Phase, WriterDimensions, WriterProducts
from converter.surgery.cut import inputs_of, matrix_of
from converter.surgery.resize import family_of

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.family import Family, LayerParts
    from converter.stage import Context

MOST_WORDS = 65_536
"""Of an output layer that is timed; a larger one takes as much more."""
NOTHING: Mapping[str, Any] = {"fixed": 0.0, "output": 0.0, "heads": [(0, 0.0)], "neurons": [(0, 0.0)]}
"""The times of a stack that has no part in a phase."""
MOST, HALVINGS, MISSED = 0.95, 24, 0.02
"""Of heads and neurons that may go, the steps in which their share is found, and how far a time may be missed."""


@dataclass(frozen=True)
class StackTimes:
    """Milliseconds of one layer of a stack by the width of its sublayers, and how many layers there are."""

    n_layers: int
    heads: tuple[tuple[int, float], ...]
    neurons: tuple[tuple[int, float], ...]

    def of(self, heads: int, neurons: int) -> float:
        return cost_on(self.heads, heads) + cost_on(self.neurons, neurons)


@dataclass(frozen=True)
class WriterTimes:
    """Milliseconds of one phase: `fixed` is what no pruning removes."""

    phase: Phase
    fixed: float
    stacks: tuple[StackTimes, ...]
    about: Mapping[str, Any]

    def total(self, widths: Sequence[tuple[int, int]]) -> float:
        """Return what a model of these heads and neurons takes, layer by layer of each stack."""
        layers = [stack for stack in self.stacks for _ in range(stack.n_layers)]
        return self.fixed + sum(stack.of(*width) for stack, width in zip(layers, widths, strict=True))


@dataclass(frozen=True)
class TimedShare:
    """The share of heads and neurons that goes so that a phase takes `wanted` milliseconds, and all tables."""

    share: float
    wanted: float
    tables: Mapping[Phase, WriterTimes]
    phase: Phase
    before: tuple[tuple[int, int], ...]

    def facts(self, made: "TorchModel") -> dict[str, Any]:
        """Return what was wanted and what came of it, the other phase told beside it."""
        widths = forecast_of(made).widths
        rows = {
            phase: {"source": round(table.total(self.before), 4), "found": round(table.total(widths), 4)}
            for phase, table in self.tables.items()
        }
        own, table = rows[self.phase], self.tables[self.phase]
        facts: dict[str, Any] = {
            "budget": {
                "unit": "ms",
                "phase": self.phase,
                "wanted": round(self.wanted, 4),
                **own,
                "speedup": round(own["source"] / own["found"], 3),
                "fixed": round(table.fixed, 4),
                "phases": rows,
                **table.about,
            }
        }
        if own["found"] > self.wanted * (1 + MISSED):
            facts["budget_missed"] = (
                f"{own['found']:.3g} ms is the lowest that can be reached, {self.wanted:.3g} was requested "
                f"({own['found'] / self.wanted:.2f} times as much)"
            )
        return facts


def share_of_time(
    given: "TorchModel",
    ctx: "Context",
    lengths: Sequence[int],
    phase: Phase,
    speedup: float | None,
    latency: float | None,
) -> TimedShare:
    """Return the share of heads and neurons, the same of both, by which a phase is as fast as is wanted.

    `latency` is in milliseconds: of a prompt as long as the texts usually are, or of a further token.

    Raises:
        RecipeError: the model is that fast already.

    """
    family = family_of(given)
    tables = phase_tables(given, ctx, lengths)
    before = forecast_of(given).widths
    full = tables[phase].total(before)
    wanted = full / speedup if speedup is not None else latency or 0.0
    if wanted >= full:
        asked = f"speedup={speedup:g}" if speedup is not None else f"latency_ms={latency:g}"
        raise RecipeError(f"{asked} has no effect: {phase} already takes {full:.3g} ms as it is", hint="ask for less")
    low, high = 0.0, MOST
    for _ in range(HALVINGS):
        share = (low + high) / 2
        left = [(h if family.fixed_heads else _left(h, share), _left(n, share)) for h, n in before]
        low, high = (low, share) if tables[phase].total(left) <= wanted else (share, high)
    return TimedShare(high, wanted, tables, phase, before)


def _left(units: int, share: float) -> int:
    return max(1, round(units * (1 - share)))


def phase_tables(given: "TorchModel", ctx: "Context", lengths: Sequence[int]) -> dict[Phase, WriterTimes]:
    """Return the times of both phases behind texts of `lengths`, taken on this machine or known already.

    They are those of ONNX Runtime, one thread, in the precision of the run's first target; where its target has another
    runtime, the facts say for what they stand in.
    """
    products = _products(ctx)
    length = natural_lengths(lengths)[2]
    stands_in = {} if ctx.aim is None or target_class(ctx.aim.target).timed else {"stands_in_for": ctx.aim.target}
    about = {"timed_with": f"onnxruntime, {products} products", "length": length, **stands_in}
    stacks = _stacks(given)
    found: dict[Phase, WriterTimes] = {}
    for phase in PHASES:
        made, fixed = [], 0.0
        for stack, (parts, size) in stacks.items():
            widest = max(p.n_heads for p in parts), max(p.n_neurons for p in parts)
            # An encoder reads the text and no more; its decoder makes keys and values of it, and the answer.
            idle = stack == "encoder" and phase == "decode"
            row = NOTHING if idle else _timed(size, products, widest, length, phase, ctx)
            more = max(0.0, int(given.config.vocab_size) / MOST_WORDS - 1)
            fixed += float(row["fixed"]) + more * float(row["output"])
            made.append(StackTimes(len(parts), curve_of(row["heads"]), curve_of(row["neurons"])))
        found[phase] = WriterTimes(phase, fixed, tuple(made), about)
    return found


def _stacks(given: "TorchModel") -> "dict[str, tuple[list[LayerParts], WriterDimensions]]":
    family: Family = family_of(given)
    parts, begin = list(family.layers(given.module)), 0
    made: dict[str, tuple[list[LayerParts], WriterDimensions]] = {}
    for stack in family.stacks(given.module):
        own = parts[begin : begin + stack.n_layers]
        begin += stack.n_layers
        made[stack.name] = own, _dimensions(given, own)
    return made


def _dimensions(given: "TorchModel", parts: "Sequence[LayerParts]") -> WriterDimensions:
    part = max(parts, key=lambda p: p.n_neurons)
    apart = len(part.projections) > 1
    return WriterDimensions(
        hidden=inputs_of(part.ffn_inputs[0]),
        head_dim=part.head_dim,
        ffn_blocks=len(part.ffn_inputs),
        embeddings=min(int(given.config.vocab_size), MOST_WORDS),
        layers=len(parts),
        key_dim=matrix_of(part.projections[1]).shape[0] // part.n_heads if apart else part.head_dim,
        crosses=part.cross is not None,
    )


def _products(ctx: "Context") -> WriterProducts:
    if ctx.aim is None:
        return "int8"
    name = ctx.aim.precision.name
    if ctx.aim.target == "cpu-int8" and name in {"int8", "int4", "dynamic"}:
        return name  # type: ignore[return-value]  # the three are among them
    return "float" if ctx.aim.precision.bytes_a_weight > 1.5 else "dynamic"  # int8 blocks take 1.02


def _timed(
    size: WriterDimensions,
    products: WriterProducts,
    widest: tuple[int, int],
    length: int,
    phase: Phase,
    ctx: "Context",
) -> dict[str, Any]:
    facts = {
        "writes": phase,
        "products": products,
        "hidden": size.hidden,
        "head_dim": size.head_dim,
        "key_dim": size.key_dim,
        "crosses": size.crosses,
        "ffn_blocks": size.ffn_blocks,
        "embeddings": size.embeddings,
        "layers": size.layers,
        "widest": list(widest),
        "length": length,
    }

    def take() -> dict[str, Any]:
        from converter.structured.writer_timing import PhaseTimer

        return PhaseTimer(size, products, widest, length, phase).take(ctx.progress)

    return timed_once(facts, take, ctx.progress, ctx.measured)
