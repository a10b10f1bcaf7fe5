"""The graphs of a model: what each takes and gives, tensor by tensor and axis by axis.

A task declares them once (`Task.graphs`). Whoever must know whether an output has a length, what an input is padded
with and on which side, or what a made-up input looks like, asks here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "model"
"""The name of the graph of a model that has one."""
BATCH, SEQUENCE, PAST, ENCODER_SEQUENCE, VOCABULARY = "batch", "sequence", "past", "encoder_sequence", "vocabulary"
"""Axes that have a name; the size of any other is a number, or a name of its own where nobody fixes it."""
EMBEDDING = "embedding"
"""The width of a sentence embedding, which the modules behind the model choose."""

Side = Literal["left", "right"]
Kind = Literal["encoder", "decoder", "encoder-decoder"]
"""What a model is run as: one call for a text; a call for a token, with a cache; or the one before the other."""
Run = Callable[[str, Mapping[str, "NDArray[Any]"]], Mapping[str, "NDArray[Any]"]]
"""The name of a graph and a feed to outputs by name: a model in PyTorch, or a package in its runtime. It keeps nothing
between calls: a cache is fed back by whoever loops."""


def runs_side_by_side(run: Run) -> bool:
    """Tell whether a run is that of a package, or of a model, which several threads may call at once."""
    return bool(getattr(getattr(run, "__self__", None), "side_by_side", False))


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    `axes` are names or sizes. `fill` is what lies beyond a text's own positions, and `side` says where that is. A
    made-up input has whole numbers of `draw` (least and largest) in it, a float one zeros.
    """

    name: str
    dtype: str
    axes: tuple[str | int, ...]
    fill: int = 0
    side: Side = "right"
    draw: tuple[int, int] = (0, 0)

    def own(self, rows: "NDArray[Any]", lengths: Mapping[str, int], first_axis: int = 0) -> "NDArray[Any]":
        """Return `rows` without padding: each axis that `lengths` knows is cut to that length.

        `first_axis` is the place in `axes` of the first axis of `rows`: 1 for one text out of a batch.
        """
        places = []
        for axis, size in zip(self.axes[first_axis:], rows.shape, strict=False):
            n = min(lengths.get(str(axis), size), size)
            places.append(slice(size - n, None) if self.side == "left" else slice(0, n))
        return rows[tuple(places)]

    def made_up_text(self, random: "np.random.Generator", rows: int, length: int) -> "NDArray[np.int64]":
        """Return ids `[rows, length]` without padding: a model may give what is behind padding other positions.

        M2M100 does, and only where it reads a text at once: fed token by token, it counts padding too.
        """
        ids = random.integers(*self.draw, (rows, length), endpoint=True)
        return np.where(ids == self.fill, self.fill + 1 if self.fill < self.draw[1] else self.fill - 1, ids)


def names_along(tensors: Iterable[TensorSpec], axis: str) -> tuple[str, ...]:
    """Return the names of the tensors that have `axis`, in order."""
    return tuple(t.name for t in tensors if axis in t.axes)


@dataclass(frozen=True)
class GraphSpec:
    """One graph: a function of named tensors."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.outputs)

    def outputs_along(self, axis: str) -> tuple[str, ...]:
        """Return the outputs that have `axis`, in order."""
        return names_along(self.outputs, axis)

    def sizes(self, feed: "Mapping[str, NDArray[Any]]") -> dict[str, int]:
        """Return the size of each named axis of what is fed."""
        known = [(t, feed[t.name]) for t in self.inputs if t.name in feed]
        return {str(a): n for t, rows in known for a, n in zip(t.axes, rows.shape, strict=True) if isinstance(a, str)}

    def own_of(
        self, outputs: "Mapping[str, NDArray[Any]]", lengths: Mapping[str, int], row: int | None = None
    ) -> "dict[str, NDArray[Any]]":
        """Return outputs without padding: of the whole batch, or of the text at `row` alone.

        An output that the graph does not declare is kept as it is: the check of names tells of it.
        """
        specs = {t.name: t for t in self.outputs}
        made = {}
        for name, value in outputs.items():
            one, first = (value, 0) if row is None else (value[row], 1)
            made[name] = specs[name].own(one, lengths, first) if name in specs else one
        return made

    def dummy(self, sizes: Mapping[str, int], *, seed: int = 0, padding: int = 0) -> "dict[str, NDArray[Any]]":
        """Return a made-up feed of these sizes; the last row has `padding` positions of padding.

        Raises:
            KeyError: an axis of an input is not in `sizes`.

        """
        random = np.random.default_rng((seed, *sizes.values()))
        made = {}
        for spec in self.inputs:
            shape = tuple(a if isinstance(a, int) else sizes[a] for a in spec.axes)
            if np.issubdtype(np.dtype(spec.dtype), np.integer):
                rows = random.integers(*spec.draw, shape, dtype=spec.dtype, endpoint=True)
            else:
                rows = np.zeros(shape, dtype=spec.dtype)
            # A cache `[batch, heads, past, size]` has no text on its second axis.
            if padding and isinstance(spec.axes[1], str):
                last = rows[-1]
                last[(slice(0, padding) if spec.side == "left" else slice(len(last) - padding, None))] = spec.fill
            made[spec.name] = rows
        return made

    def giving(self, names: tuple[str, ...]) -> "GraphSpec":
        """Return the same graph with those of its outputs alone."""
        return replace(self, outputs=tuple(t for t in self.outputs if t.name in names))


@dataclass(frozen=True)
class CacheFacts:
    """What the graphs of a model that writes text are declared by; all of it is read off one call of the model."""

    sizes: Mapping[str, tuple[int, int]]
    """Heads and head size of each tensor of the cache, in the order that graphs list them."""
    vocabulary: int
    """Rows of the embedding table: token ids are below this."""
    width: int = 0
    """Of the states that a decoder reads of its encoder; 0 for a causal model."""
    position_ids: bool = True
    """A causal model takes them."""


@dataclass(frozen=True)
class ModelFacts:
    """What a task must know of one model, besides its configuration, to declare its graphs."""

    inputs: tuple[str, ...]
    """What the tokenizer gives and the model takes."""
    pad_id: int = 0
    side: Side = "right"
    """Where its tokenizer pads."""
    vocabulary: int = 2
    """Token ids are below this."""
    embeds: bool = False
    """It has a sentence head: an embedding of the whole text comes out too."""
    cache: CacheFacts | None = None
    """Of a model that writes text."""

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        inputs: tuple[str, ...] | None = None,
        *,
        embeds: bool = False,
        cache: CacheFacts | None = None,
    ) -> "ModelFacts":
        """Read them off a tokenizer; `inputs` None: those that it says its model takes."""
        found = tuple(n for n in ENCODER_INPUTS if n in tokenizer.model_input_names) if inputs is None else inputs
        pad = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        side: Side = "left" if tokenizer.padding_side == "left" else "right"
        return cls(found, pad, side, max(2, len(tokenizer)), embeds, cache)


ENCODER_INPUTS: Mapping[str, TensorSpec] = {
    t.name: t
    for t in (
        TensorSpec("input_ids", "int64", (BATCH, SEQUENCE)),
        TensorSpec("attention_mask", "int64", (BATCH, SEQUENCE), draw=(1, 1)),
        TensorSpec("token_type_ids", "int64", (BATCH, SEQUENCE)),
    )
}
"""Every input of an encoder that this tool knows, in the order that graphs list them."""


def encoder_graph(facts: ModelFacts, outputs: tuple[TensorSpec, ...]) -> dict[str, GraphSpec]:
    """Return the one graph of an encoder: a text in, `outputs` out, and its embedding where the model has one.

    It is padded on the right whatever its tokenizer does: positions are counted from the first token.
    """
    ids = {"fill": facts.pad_id, "draw": (0, facts.vocabulary - 1)}
    inputs = tuple(
        replace(spec, **ids) if name == "input_ids" else spec  # type: ignore[arg-type]
        for name, spec in ENCODER_INPUTS.items()
        if name in facts.inputs
    )
    embedding = (TensorSpec("sentence_embedding", "float32", (BATCH, EMBEDDING)),) if facts.embeds else ()
    return {MODEL: GraphSpec(MODEL, inputs, (*outputs, *embedding))}


def run_graphs(
    specs: Mapping[str, GraphSpec], run: Run, feed: "Mapping[str, NDArray[Any]]"
) -> "Mapping[str, NDArray[np.float32]]":
    """Run graphs in their order, each on what is fed and on what those before it gave; returns what the last one gives.

    Raises:
        KeyError: a graph takes what is neither fed nor given by an earlier one.

    """
    known, made = dict(feed), {}
    for name, spec in specs.items():
        made = dict(run(name, {n: known[n] for n in spec.input_names}))
        known |= made
    return made


def spec_table(spec: GraphSpec) -> dict[str, list[dict[str, Any]]]:
    """Return the inputs and outputs of a graph as they stand in a manifest."""
    return {
        kind: [{**vars(t), "axes": list(t.axes), "draw": list(t.draw)} for t in tensors]
        for kind, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs))
    }


def read_spec(name: str, table: Mapping[str, Any]) -> GraphSpec:
    """Read what `spec_table` wrote.

    Raises:
        ValueError, KeyError, TypeError: it is not that.

    """
    return GraphSpec(name, *(tuple(map(_read_tensor, table[kind])) for kind in ("inputs", "outputs")))


def _read_tensor(table: Mapping[str, Any]) -> TensorSpec:
    axes = tuple(a if isinstance(a, int) else str(a) for a in table["axes"])
    low, high = (int(x) for x in table["draw"])
    if table["side"] not in ("left", "right"):
        raise ValueError(f"padding on the side {table['side']!r}")
    dtype = np.dtype(table["dtype"]).name
    return TensorSpec(str(table["name"]), dtype, axes, int(table["fill"]), table["side"], (low, high))
