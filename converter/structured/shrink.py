"""Shrinking a model step by step to a budget: measure, choose widths, cut, fit what is left, and measure again.

What is left takes over what is gone, so importance changes with every cut: measured once, at 2 x, models fall apart
(TextPruner, arXiv 2203.15996). The last weights are fitted from the whole model's own, cut at once to the final widths:
they follow from the decision and the text alone, so a saved decision gives them again to the last bit.
"""

import copy
import hashlib
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from converter.artifact import TorchModel
from converter.examples import Encoding
from converter.model_folder.shape_map import LayerShape
from converter.structured.costs import CostTable
from converter.structured.input_correction import Readers, correct_inputs, readers_of
from converter.structured.least_squares import Moments, refit, solved
from converter.structured.order import Removal, order_removal
from converter.structured.output_gradients import OutputGradients, measure_output_gradients
from converter.structured.plan import UnitScores
from converter.structured.streams import Stream, Sublayer, TeacherSums, linear_of, sublayers_of
from converter.structured.widths import Choice, choose_widths
from converter.surgery.resize import family_of, resized, resized_in_place
from converter.training.checkpoint import digest_weights

if TYPE_CHECKING:
    from converter.family import LayerParts
    from converter.stage import Ticker
    from converter.structured.importance import Evidence

RIDGE = 0.01
"""Of the mean diagonal of X'X: how firmly old weights are held."""
TOKENS_EVENLY = 0.5
OUTPUTS_EVENLY = 0.3
"""How much of the weights of tokens and of the metric of outputs does not look at gradients, which are noisy."""
PASSES = 2
"""Over all sublayers, from the first to the last: the second sees what the first has made of the later ones."""
LAST_DRAW = 10_000
"""The noise that the last fit is led by: the same however many steps came before."""
SEARCH_TEXTS = 512
"""That units are chosen by: which go is known from fewer texts than the weights of those that stay."""
MATRIX_BYTES = 400_000_000
"""Of second moments that are held at once."""


@dataclass(frozen=True)
class PruningInputs:
    """What every step works from: the whole model, the text, and the whole model's activations on it."""

    given: TorchModel
    evidence: "Evidence"
    batches: tuple[tuple[Encoding, ...], ...]
    sums: TeacherSums

    def thinned(self, stride: int) -> "PruningInputs":
        """Return the same with every n-th batch alone, of all lengths."""
        evidence = replace(self.evidence, batches=self.evidence.batches[::stride])
        return PruningInputs(self.given, evidence, self.batches[::stride], self.sums.thinned(stride))


@dataclass(frozen=True)
class Shrunk:
    """A model cut to a budget, not yet fitted, and what the units were worth before the first cut."""

    made: TorchModel
    first: tuple[UnitScores, ...]
    missed: bool
    """Even the least that can be left is over the budget."""


def search_stride(evidence: "Evidence") -> int:
    """Return of how many batches the search looks at one."""
    return -(-evidence.n_texts // SEARCH_TEXTS)


def collect_inputs(given: TorchModel, evidence: "Evidence", folder: Path, ticker: "Ticker") -> PruningInputs:
    """Run the whole model once and keep what it hands on, in files under `folder`."""
    batches = tuple(tuple(e for _, e in batch) for batch in evidence.batches)
    sums = TeacherSums(folder)
    sums.take(Stream(given, batches), ticker.advance)
    return PruningInputs(given, evidence, batches, sums)


def shrink(
    inputs: PruningInputs,
    table: CostTable,
    budget: float,
    n_steps: int,
    chunk: int,
    ticker: "Ticker",
    shared: MutableMapping[str, Any] | None = None,
) -> Shrunk:
    """Return the units that lose least within `budget` (of the table's unit), found in `n_steps` steps.

    Heads go one by one, neurons so that multiples of `chunk` stay. What the units of the whole model are worth is the
    same for every budget: it is kept in `shared`, and taken from there.
    """
    inputs = inputs.thinned(search_stride(inputs.evidence))
    made = replace(inputs.given, module=copy.deepcopy(inputs.given.module))
    full = table.total(_widths(made))
    first: tuple[UnitScores, ...] = ()
    missed = False
    for step in range(1, n_steps + 1):
        gradients, removals = _valued(inputs, made, step, ticker, shared)
        first = first or tuple(_scores(removals, i) for i in range(len(_parts(made))))
        allowed = full * (budget / full) ** (step / n_steps)
        shapes, missed = choose_shapes(removals, table, allowed, chunk)
        made = resized_in_place(made, shapes)
        if step < n_steps:
            reconstruct(inputs, made, gradients, ticker)
    return Shrunk(made, first, missed)


def _valued(
    inputs: PruningInputs, made: TorchModel, step: int, ticker: "Ticker", shared: MutableMapping[str, Any] | None
) -> tuple[Mapping[Sublayer, OutputGradients], Mapping[Sublayer, Removal]]:
    """Return what the answers tell of each sublayer's outputs, and in which order its units go."""
    key = _key(inputs) if shared is not None and step == 1 else ""
    if shared is not None and key and key in shared:
        ticker.advance(len(inputs.batches) + 2 * len(_parts(made)))
        found: tuple[Mapping[Sublayer, OutputGradients], Mapping[Sublayer, Removal]] = shared[key]
        return found
    gradients = measure_output_gradients(made, inputs.given, inputs.evidence, step, ticker)
    removals = _removals(inputs, made, gradients, ticker)
    if shared is not None and key:
        shared[key] = gradients, removals
    return gradients, removals


def _key(inputs: PruningInputs) -> str:
    """Return the digest of all that the units of the whole model are worth by."""
    evidence = inputs.evidence
    made = hashlib.sha256(digest_weights(inputs.given.module).encode())
    made.update(repr((evidence.by_labels, evidence.score, evidence.seed)).encode())
    for batch in evidence.batches:
        for example, encoding in batch:
            made.update(repr(example.label).encode() if evidence.by_labels else b"")
            for name, ids in encoding.inputs.items():
                made.update(name.encode() + ids.tobytes())
        made.update(b"batch")
    return f"removals {made.hexdigest()}"


def fitted(inputs: PruningInputs, shapes: Sequence[LayerShape], ticker: "Ticker") -> TorchModel:
    """Return the whole model cut to `shapes` (indices into it) and its output weights fitted anew."""
    made = resized(inputs.given, shapes)
    readers = readers_of(Stream(made, inputs.batches))
    for number in range(PASSES):
        gradients = measure_output_gradients(made, inputs.given, inputs.evidence, LAST_DRAW + number, ticker)
        reconstruct(inputs, made, gradients, ticker, readers)
    return made


def reconstruct(
    inputs: PruningInputs,
    made: TorchModel,
    gradients: Mapping[Sublayer, OutputGradients],
    ticker: "Ticker",
    readers: Readers | None = None,
) -> None:
    """Fit the output weights of `made` in place, one sublayer after the other; before each, what its `readers` read."""
    stream = Stream(made, inputs.batches)
    done = 0
    for sublayer in sublayers_of(_parts(made)):
        if sublayer.layer > done:
            stream.finish(done)
            done = sublayer.layer
        if readers and sublayer in readers.of_sublayers:
            correct_inputs(
                readers.of_sublayers[sublayer], _reading(inputs, stream, sublayer, gradients[sublayer]), RIDGE
            )
        linear = linear_of(_parts(made), sublayer)
        refit(linear, _moments(inputs, stream, [sublayer], gradients)[sublayer], RIDGE, bias=has_bias(linear))
        ticker.advance()
    if readers and readers.head:
        stream.finish(done)
        correct_inputs([readers.head], _read_by_head(inputs, stream, readers.head.linear), RIDGE)


def _parts(model: TorchModel) -> "Sequence[LayerParts]":
    return family_of(model).layers(model.module)


def _widths(model: TorchModel) -> list[tuple[int, int]]:
    return [(p.n_heads, p.n_neurons) for p in _parts(model)]


def _moments(
    inputs: PruningInputs, stream: Stream, sublayers: Sequence[Sublayer], gradients: Mapping[Sublayer, OutputGradients]
) -> dict[Sublayer, Moments]:
    linears = {sublayer: linear_of(stream.parts, sublayer) for sublayer in sublayers}
    made = {sublayer: Moments(linear.in_features, linear.out_features) for sublayer, linear in linears.items()}
    for number in range(len(stream.feeds)):
        for sublayer, passes in stream.watch(number, sublayers).items():
            for i, seen in enumerate(passes):
                lacking = inputs.sums.of(number, sublayer, i) - seen.total
                made[sublayer].add(seen.given, lacking, gradients[sublayer].weights(number, i, TOKENS_EVENLY))
    return made


def _reading(inputs: PruningInputs, stream: Stream, sublayer: Sublayer, gradient: OutputGradients) -> Moments:
    """Return the moments of what `sublayer` reads, and of what that lacks of what the whole model reads there."""
    width = linear_of(stream.parts, sublayer).out_features
    made = Moments(width, width)
    for number in range(len(stream.feeds)):
        for i, seen in enumerate(stream.watch(number, [sublayer])[sublayer]):
            if seen.read is not None:
                # Both rounded alike: what is the same lacks nothing.
                lacking = inputs.sums.read_of(number, sublayer, i).float() - seen.read.half().float()
                made.add(seen.read, lacking, gradient.weights(number, i, TOKENS_EVENLY))
    return made


def _read_by_head(inputs: PruningInputs, stream: Stream, head: torch.nn.Linear) -> Moments:
    """Return the moments of what the head reads, and of what that lacks."""
    made = Moments(head.in_features, head.in_features)
    for number in range(len(stream.feeds)):
        read = stream.read_by(number, head)
        lacking = inputs.sums.read_by_head(number).float() - read.half().float()
        made.add(read, lacking, torch.ones(len(read)))
    return made


def _removals(
    inputs: PruningInputs, made: TorchModel, gradients: Mapping[Sublayer, OutputGradients], ticker: "Ticker"
) -> dict[Sublayer, Removal]:
    """Return, for each sublayer, in which order its units go and what that costs, all others as they are."""
    parts, stream = _parts(made), Stream(made, inputs.batches)
    found: dict[Sublayer, Removal] = {}
    for sublayers in _held_together(parts):
        moments = _moments(inputs, stream, sublayers, gradients)
        for sublayer in sublayers:
            linear, gradient = linear_of(parts, sublayer), gradients[sublayer]
            matrix, weight = solved(moments.pop(sublayer), linear.weight, RIDGE, bias=has_bias(linear))
            width = parts[sublayer.layer].head_dim if sublayer.kind == "attention" else 1
            found[sublayer] = order_removal(matrix, weight, gradient.mass * gradient.shape(OUTPUTS_EVENLY), width)
            ticker.advance()
    return found


def _held_together(parts: "Sequence[LayerParts]") -> list[list[Sublayer]]:
    """Return groups of sublayers whose second moments fit into memory together: one run of the model a group."""
    groups: list[list[Sublayer]] = [[]]
    held = 0
    for sublayer in sublayers_of(parts):
        size = 8 * linear_of(parts, sublayer).in_features ** 2
        if groups[-1] and held + size > MATRIX_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(sublayer)
        held += size
    return groups


def has_bias(linear: torch.nn.Linear) -> bool:
    return linear._parameters.get("bias") is not None  # noqa: SLF001 - the attribute is typed as if it were never None


def choose_shapes(
    removals: Mapping[Sublayer, Removal], table: CostTable, budget: float, chunk: int
) -> tuple[list[LayerShape], bool]:
    """Return the units that stay within `budget`, or else the least that can be left, and whether it was missed."""
    n_layers = len(removals) // 2
    choices = {s: _choices(s, removal, table.layer(s.layer, n_layers), chunk) for s, removal in removals.items()}
    widths = _within(choices, budget - table.fixed)
    missed = widths is None
    if widths is None:
        widths = {sublayer: min(row, key=lambda c: c.cost).width for sublayer, row in choices.items()}
        _keep_one_head(widths, removals)
    shapes = [
        LayerShape(*(removals[s].kept(widths[s]) for s in (Sublayer(i, "attention"), Sublayer(i, "ffn"))))
        for i in range(n_layers)
    ]
    return shapes, missed


def _within(choices: Mapping[Sublayer, Sequence[Choice]], room: float) -> dict[Sublayer, int] | None:
    """Return the widths that lose least within `room`, at least one head among them; None: there are none."""
    best = _picked(choices, room)
    attention = [sublayer for sublayer in choices if sublayer.kind == "attention"]
    if best is None or any(best[sublayer].width for sublayer in attention):
        return None if best is None else {sublayer: c.width for sublayer, c in best.items()}
    # No layer would have a head: one must, so each is tried.
    tried = [
        _picked({**choices, sublayer: [c for c in choices[sublayer] if c.width]}, room)
        for sublayer in attention
        if any(c.width for c in choices[sublayer])
    ]
    made = [found for found in tried if found is not None]
    if not made:
        return None
    least = min(made, key=lambda found: sum(c.loss for c in found.values()))
    return {sublayer: c.width for sublayer, c in least.items()}


def _picked(choices: Mapping[Sublayer, Sequence[Choice]], room: float) -> dict[Sublayer, Choice] | None:
    picks = choose_widths(list(choices.values()), room)
    if picks is None:
        return None
    return {sublayer: row[pick] for (sublayer, row), pick in zip(choices.items(), picks, strict=True)}


def _choices(sublayer: Sublayer, removal: Removal, table: CostTable, chunk: int) -> list[Choice]:
    n_units = len(removal.order)
    step = 1 if sublayer.kind == "attention" else min(chunk, max(1, n_units // 2))
    widths = sorted({n_units, *range(0, n_units, step)})
    return [Choice(w, table.of(sublayer.kind, w), removal.cost_of(w)) for w in widths]


def _keep_one_head(widths: dict[Sublayer, int], removals: Mapping[Sublayer, Removal]) -> None:
    """Give the layer that would miss it most one head: tokens must know of each other."""
    sublayers = [s for s in widths if s.kind == "attention"]
    most = max(
        (s for s in sublayers if removals[s].order), key=lambda s: removals[s].cost_of(0) - removals[s].cost_of(1)
    )
    widths[most] = 1


def _scores(removals: Mapping[Sublayer, Removal], layer: int) -> UnitScores:
    return UnitScores(
        removals[Sublayer(layer, "attention")].unit_costs(), removals[Sublayer(layer, "ffn")].unit_costs()
    )
