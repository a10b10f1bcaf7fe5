"""An ONNX file run piece by piece: no more of its weights is in memory than those of some neighbouring operators."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import StageFailed
from converter.graphs import MODEL
from converter.onnx.branches import flatten, reads_of
from converter.resources import release_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = dict[str, NDArray[Any]]

PIECE_BYTES = 64_000_000
"""Weights of a piece; one operator with more is a piece of its own."""


@dataclass(frozen=True)
class Piece:
    """Some neighbouring operators of a graph."""

    nodes: Sequence[Any]
    """NodeProtos, in the order of the graph."""
    reads: tuple[str, ...]
    """What earlier pieces, or the caller, give it."""
    gives: tuple[str, ...]
    """What later pieces read, and what is wanted of it."""
    kept: frozenset[str]
    """What later pieces read of all that is known when it has run."""


class Pieces:
    """The graph of a file that `write_onnx` wrote, cut into pieces of about `PIECE_BYTES` of weights.

    A piece is opened, run on every text, and closed before the next one: what passes from piece to piece is all that is
    held of a text. The weights stay in the file, and are mapped from it while their piece is open.
    """

    def __init__(self, path: Path, wanted: Sequence[str] | None = None) -> None:
        """Cut the graph of `path`; `wanted` are the values that are asked for (None: the graph's own outputs)."""
        from converter.onnx.read import read_proto

        self.path = path
        self.proto, weights = read_proto(path)
        flatten(self.proto.graph)
        self.wanted = tuple(wanted if wanted is not None else (o.name for o in self.proto.graph.output))
        self._headers = {header.name: header for header in self.proto.graph.initializer}
        sizes = dict(zip(self._headers, (w.length for w in weights), strict=True))
        self.pieces = _cut(self.proto.graph, sizes, frozenset(self.wanted))

    def run(self, graph: str, feed: "Mapping[str, NDArray[Any]]") -> "dict[str, NDArray[Any]]":
        """Return what is wanted of one feed; a `converter.graphs.Run` of the one graph that an encoder has."""
        assert graph == MODEL, graph
        made: dict[str, NDArray[Any]] = {}
        for values in self.passes([feed]):
            made |= values
        return {name: made[name] for name in self.wanted}

    def passes(self, feeds: "Sequence[Mapping[str, NDArray[Any]]]") -> "Iterator[Values]":
        """Yield, piece after piece and in each for every feed in turn, what of the wanted values that piece makes.

        What passes between pieces lies on disk, where there is more than one feed.
        """
        with TemporaryDirectory(prefix="pieces-", dir=self.path.parent) as name:
            known = _Passed(Path(name) if len(feeds) > 1 else None, feeds)
            for piece in self.pieces:
                session = None
                for i in range(len(feeds)):
                    given = known.of(i)
                    if session is None:
                        session = self._opened(piece, given)
                    found = session.run(piece.gives, {n: given[n] for n in piece.reads})
                    made = dict(zip(piece.gives, found, strict=True))
                    self._check_tensors(made)
                    yield {n: v for n, v in made.items() if n in self.wanted}
                    known.keep(i, {n: v for n, v in (given | made).items() if n in piece.kept})
                del session
                release_memory(cycles=False)

    def _check_tensors(self, made: "Mapping[str, Any]") -> None:
        other = next((n for n, v in made.items() if not isinstance(v, np.ndarray)), None)
        if other is not None:
            raise StageFailed(
                f"{other} is no tensor, and only tensors pass from one piece of a graph to the next",
                where=self.path.name,
                hint="leave --device-map out, so that the graph is run as a whole",
            )

    def _opened(self, piece: Piece, given: "Mapping[str, NDArray[Any]]") -> Any:
        """Return a session on a piece, which learns the types of what it reads from what is `given`."""
        import onnx
        from onnx import helper

        from converter.onnx.runner import open_view

        used = dict.fromkeys(n for node in piece.nodes for n in reads_of(node) if n in self._headers)
        graph = helper.make_graph(
            list(piece.nodes),
            "piece",
            [
                helper.make_tensor_value_info(
                    n, helper.np_dtype_to_tensor_dtype(given[n].dtype), [None] * given[n].ndim
                )
                for n in piece.reads
            ],
            [onnx.ValueInfoProto(name=n) for n in piece.gives],
            [self._headers[n] for n in used],
        )
        told = {"opset_imports": self.proto.opset_import, "ir_version": self.proto.ir_version}
        made = helper.make_model(graph, functions=list(self.proto.functions), **told)
        view = self.path.with_name(f"{self.path.stem}.piece.onnx")
        view.write_bytes(made.SerializeToString(deterministic=True))
        return open_view(view, self.path.name)


class _Passed:
    """What is known of each feed between two pieces."""

    def __init__(self, folder: Path | None, feeds: "Sequence[Mapping[str, NDArray[Any]]]") -> None:
        self._folder = folder
        self._held: dict[int, Values] = {i: dict(feed) for i, feed in enumerate(feeds)}

    def of(self, i: int) -> "Values":
        if i in self._held:
            return self._held[i]
        with np.load(self._file(i), allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files}

    def keep(self, i: int, values: "Values") -> None:
        if self._folder is None:
            self._held[i] = values
            return
        self._held.pop(i, None)
        with self._file(i).open("wb") as opened:
            np.savez(opened, allow_pickle=False, **values)

    def _file(self, i: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{i}.npz"


def _cut(graph: Any, sizes: Mapping[str, int], wanted: frozenset[str]) -> list[Piece]:
    groups: list[list[Any]] = [[]]
    held: set[str] = set()
    for node in _needed(graph, wanted):
        used = {n for n in reads_of(node) if n in sizes}
        if groups[-1] and sum(sizes[n] for n in held | used) > PIECE_BYTES:
            groups.append([])
            held = set()
        groups[-1].append(node)
        held |= used
    reads = [_reads(group, sizes) for group in groups]
    # What each piece and those behind it read.
    later = [*itertools.accumulate(reversed(reads), lambda a, b: a | b)][::-1]
    made: list[Piece] = []
    for i, group in enumerate(groups):
        behind = later[i + 1] if i + 1 < len(groups) else frozenset[str]()
        gives = tuple(n for node in group for n in node.output if n and (n in behind or n in wanted))
        made.append(Piece(group, tuple(sorted(reads[i])), gives, behind))
    return made


def _needed(graph: Any, wanted: frozenset[str]) -> list[Any]:
    """Return the operators that make what is wanted, in the order of the graph."""
    made: list[Any] = []
    asked = set(wanted)
    for node in reversed(graph.node):
        if asked.intersection(node.output):
            made.append(node)
            asked.update(reads_of(node))
    return made[::-1]


def _reads(nodes: Sequence[Any], weights: Mapping[str, int]) -> frozenset[str]:
    own = {n for node in nodes for n in node.output}
    return frozenset(n for node in nodes for n in reads_of(node) if n not in own and n not in weights)
