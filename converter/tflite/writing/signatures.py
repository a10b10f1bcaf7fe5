"""The signatures of a file, held to what the model declares: a file of another layout is refused where it is opened."""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.errors import PackageDamaged
from converter.generate.graphs import DECODER, ENCODER, decoder_of
from converter.graphs import PAST, GraphSpec, TensorSpec
from converter.target import GraphInfo, TensorInfo
from converter.tflite.file import text
from converter.tflite.writing.layout import (
    CACHE_KEY,
    CACHE_VALUE,
    CROSS_KEY,
    CROSS_VALUE,
    DECODE,
    ENCODE,
    LOGITS,
    MASK,
    POSITIONS,
    PREFILL,
    SOURCE_MASK,
    STATES,
    TOKENS,
    Layout,
)

Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Shape and type of each tensor, by name."""


def read_layout(path: Path, specs: Mapping[str, GraphSpec]) -> Layout:
    """Return the layout of a file. Its tables are read alone: a runtime lays out memory for what it is asked of.

    Raises:
        PackageDamaged: it lacks a signature, or one takes or gives something else than the model.

    """
    found = _signatures(path)
    causal = DECODER not in specs
    kind = PREFILL if causal else ENCODE
    lengths = sorted(int(n.removeprefix(kind)) for n in found if n.removeprefix(kind).isdigit())
    if not lengths or DECODE not in found:
        raise PackageDamaged(
            f"the file has no signatures {kind}<length> and {DECODE}; it has {', '.join(found) or 'none'}",
            where=str(path),
        )
    first, _ = found[DECODE][0].get(f"{CACHE_KEY}0", ((), ""))
    if len(first) != 4:
        raise PackageDamaged(f"{DECODE} has no cache", where=str(path))
    own = [t for t in decoder_of(specs).inputs if PAST in t.axes]
    layout = Layout(causal, first[2], tuple(lengths), len(own) // 2)
    for name, sides in found.items():
        for does, has, wanted in zip(("takes", "gives"), sides, expected(layout, specs, name), strict=True):
            if has != wanted:
                odd = min(n for n in has.keys() | wanted.keys() if has.get(n) != wanted.get(n))
                raise PackageDamaged(
                    f"{name} {does} {odd} as {has.get(odd, 'nothing')}, wanted {wanted.get(odd, 'nothing')}",
                    where=str(path),
                )
    return layout


def _signatures(path: Path) -> dict[str, tuple[Shapes, Shapes]]:
    """Return what each signature of a file takes and gives."""
    from ai_edge_litert.schema_py_generated import Model

    made = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = Model.GetRootAs(content, 0)
        for i in range(model.SignatureDefsLength()):
            signature = model.SignatureDefs(i)
            graph = model.Subgraphs(signature.SubgraphIndex())
            given = [signature.Inputs(k) for k in range(signature.InputsLength())]
            gives = [signature.Outputs(k) for k in range(signature.OutputsLength())]
            sides = (
                {text(e.Name()): _shape_of(graph.Tensors(e.TensorIndex())) for e in side} for side in (given, gives)
            )
            made[text(signature.SignatureKey())] = (next(sides), next(sides))
    return made


def _shape_of(tensor: Any) -> tuple[tuple[int, ...], str]:
    from ai_edge_litert.schema_py_generated import TensorType

    names = {TensorType.FLOAT32: "float32", TensorType.INT32: "int32", TensorType.INT64: "int64"}
    return tuple(tensor.Shape(i) for i in range(tensor.ShapeLength())), names.get(tensor.Type(), str(tensor.Type()))


def expected(layout: Layout, specs: Mapping[str, GraphSpec], signature: str) -> tuple[Shapes, Shapes]:
    """Return what a signature must take and give.

    Raises:
        PackageDamaged: there is no such signature in this layout.

    """
    if signature not in layout.signatures:
        raise PackageDamaged(f"the file has a signature {signature}, which is none of {', '.join(layout.signatures)}")
    decoder = decoder_of(specs)
    own = [t for t in decoder.inputs if PAST in t.axes]
    cross = [t for t in decoder.inputs if t.name.startswith("past_key_values.") and PAST not in t.axes]
    length = 1 if signature == DECODE else int(signature.rpartition("_")[2])
    cache = _pairs(own, CACHE_KEY, CACHE_VALUE, layout.cache)
    known = _pairs(cross, CROSS_KEY, CROSS_VALUE, layout.source_length)
    if signature.startswith(ENCODE):
        width = next(t for t in specs[ENCODER].outputs).axes[-1]
        assert isinstance(width, int), "the width of an encoder is a number"
        row: Shapes = dict.fromkeys((TOKENS, SOURCE_MASK), ((1, length), "int32"))
        return row, known | {STATES: ((1, length, width), "float32")}
    given: Shapes = {
        TOKENS: ((1, length), "int32"),
        POSITIONS: ((length,), "int32"),
        MASK: ((1, 1, length, layout.cache), "float32"),
    }
    if not layout.causal:
        given[SOURCE_MASK] = ((1, layout.source_length), "int32")
    given |= cache | (known if not layout.causal else {})
    ids = next(t for t in decoder.inputs if t.name == "input_ids")
    return given, cache | ({LOGITS: ((1, 1, ids.draw[1] + 1), "float32")} if signature == DECODE else {})


def graph_infos(specs: Mapping[str, GraphSpec]) -> dict[str, GraphInfo]:
    """Return the graphs as callers of a runner see them, whole numbers in 32 bits."""
    return {
        name: GraphInfo(tuple(map(_info, spec.inputs)), tuple(map(_info, spec.outputs))) for name, spec in specs.items()
    }


def _info(tensor: TensorSpec) -> TensorInfo:
    dtype = "int32" if tensor.dtype == "int64" else tensor.dtype
    shape = tuple(a if isinstance(a, int) else None for a in tensor.axes)
    return TensorInfo(tensor.name, dtype, (1, *shape[1:]))


def _pairs(tensors: list[TensorSpec], key: str, value: str, length: int) -> Shapes:
    made: Shapes = {}
    for i, (keys, values) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
        (_, heads, _, size), (_, also, _, width) = keys.axes, values.axes
        made[f"{key}{i}"] = _shape(heads, length, size)
        made[f"{value}{i}"] = _shape(also, width, length)
    return made


def _shape(*sizes: str | int) -> tuple[tuple[int, ...], str]:
    return (1, *(int(n) for n in sizes)), "float32"
