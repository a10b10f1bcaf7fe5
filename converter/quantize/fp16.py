"""Half precision: weights and arithmetic in float16, integer inputs and float32 outputs."""

import contextlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from converter.errors import StageFailed
from converter.graphs import MODEL
from converter.onnx.model import OnnxModel
from converter.precision import Limits, Precision, Quantizer
from converter.resources import release_memory
from converter.stage import Context, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from converter.examples import Encoding

MAX_CONSTANT = 1e4
"""Attention masks are -3.4e38 in float32, infinite in float16; at -1e4 the softmax is as surely zero."""
MIN_CONSTANT = 1e-7
MAX_HALF = 65504.0
MASKED = 1e30
"""What an additive mask of float32's least value leaves."""
TRIED = 8
LAYERS = ("MatMul", "Gemm", "LayerNormalization")
WHOLE = ("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "TopK")
"""What makes whole numbers of whatever it is given."""
WATCHED = ("MatMul", "Add", "Sum", "Mul", "Pow", "ReduceSum")
"""Where values grow; everything else lies between what these make."""


@dataclass(frozen=True)
class Fp16(Quantizer[OnnxModel]):
    """ONNX Runtime's float16 conversion, mask constants made finite, outputs cast back to float32."""

    target = "ort-gpu"
    precision = Precision(
        "fp16",
        Limits(max_error=0.03, cosine=0.999, agreement=0.99, stability=0.99, sequences=0.9),
        bytes_a_weight=2,
        tolerance=1e-2,
        suffix="_fp16",
        client_dtype="fp16",
    )
    takes = ("encoder", "decoder", "encoder-decoder")
    summary = "float16 weights and arithmetic, float32 outputs"

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from converter.onnx.read import read_onnx
        from converter.onnx.rewrites.clean import clean_graph
        from converter.onnx.write import write_onnx

        if given.source.cache is not None:
            return self._written(given, ctx)
        path = ctx.work / "fp16" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        facts = _check_range(given, ctx)
        with ctx.progress.task("Converting to fp16"), _quiet():
            model = to_half(read_onnx(given.files[MODEL]))
            clean_graph(model)
            write_onnx(model, path)
        release_memory()
        made = replace(given, files={MODEL: path}, precision="fp16")
        return Outcome(made, facts)

    def _written(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        """Convert every graph of a model that writes text; what overflows on text stays in float32."""
        from converter.onnx.quantize.written import written_texts

        (folder := ctx.work / "fp16").mkdir(exist_ok=True)
        texts = written_texts(given, ctx, TRIED) if ctx.calibration else []
        files, facts = {}, {}
        for graph in given.files:
            files[graph] = folder / f"{graph}.onnx"
            facts[graph] = write_half(given, graph, texts, files[graph], ctx)
        return Outcome(replace(given, files=files, precision="fp16"), {"texts": len(texts), **facts})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's converter warns on the root logger of what is meant to happen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def write_half(given: OnnxModel, graph: str, texts: "list[Encoding]", path: "Path", ctx: Context) -> dict[str, Any]:
    """Write one graph of `given` in half precision; what overflows on `texts` stays in float32. Returns the facts."""
    from converter.onnx.quantize.overflows import overflowing_nodes
    from converter.onnx.read import read_onnx
    from converter.onnx.rewrites.clean import clean_graph
    from converter.onnx.write import write_onnx

    model = read_onnx(given.files[graph])
    title = model.graph.name
    kept, largest = overflowing_nodes(model, graph, given, texts, path.parent, ctx)
    with ctx.progress.task("Converting to fp16"), _quiet():
        # A cache is handed back as it came, and is float32 in every runtime.
        half = to_half(model, kept, [str(v.name) for v in model.graph.inputs])
        clean_graph(half)
        half.graph.name = title
        write_onnx(half, path)
    release_memory()
    return {"largest_activation": largest, "kept_float32": kept}


def to_half(model: "ir.Model", kept: Collection[str] = (), wide_inputs: Collection[str] = ()) -> "ir.Model":
    """Convert with the large weights left out: the converter copies the whole model, several times.

    The nodes called `kept` stay in float32, with their weights, and so do those that compute indices; `wide_inputs`
    stay what they are.
    """
    import onnx_ir as ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from converter.onnx.read import hollow_proto
    from converter.onnx.rewrites.wide_values import drop_round_trips

    n_inputs = len(model.graph.inputs)
    kept = {*kept, *index_nodes(model)}
    weights = {str(v.name) for n in model.graph if n.name in kept for v in n.inputs if v is not None and v.const_value}
    proto, large = hollow_proto(model)
    half = ir.from_proto(
        convert_float_to_float16(
            proto,
            keep_io_types=[*(o.name for o in proto.graph.output), *wide_inputs, *weights],
            node_block_list=sorted(kept),
            min_positive_val=MIN_CONSTANT,
            max_finite_val=MAX_CONSTANT,
        )
    )
    while len(half.graph.inputs) > n_inputs:
        value = half.graph.inputs.pop()
        value.const_value = _half_tensor(large[str(value.name)], value)
        half.graph.register_initializer(value)
    # The converter adds casts at the end, behind what reads them.
    half.graph.sort()
    drop_round_trips(half)
    return half


def index_nodes(model: "ir.Model") -> set[str]:
    """Return the nodes of floats that become integers: an index that float16 rounds is another index.

    Relative positions of MPNet, T5 and DeBERTa are logarithms of distances, cut to whole numbers. What takes products
    of weights on its way is no index.
    """
    import onnx_ir as ir

    found: set[str] = set()
    for node in model.graph:
        to = _cast_to(node)
        if to is None or not to.is_integer():
            continue
        behind = _behind(node)
        floats = any(_cast_to(n) is ir.DataType.FLOAT for n in behind)
        if floats and not any(n.op_type in LAYERS for n in behind):
            found |= {str(n.name) for n in behind}
    return found


def _behind(node: "ir.Node") -> "list[ir.Node]":
    """Return a node and all before it, up to where whole numbers become floats, or are made anew.

    The file does not say which values are floats; a node of whole numbers among them is not changed by the conversion.
    """
    found, waiting = [node], [node]
    while waiting:
        one = waiting.pop()
        for value in one.inputs:
            maker = None if value is None else value.producer()
            if maker is None or maker in found or maker.op_type in WHOLE:
                continue
            to = _cast_to(maker)
            if to is None or to.is_floating_point():
                found.append(maker)
            if to is None:
                waiting.append(maker)
    return found


def _cast_to(node: "ir.Node") -> "ir.DataType | None":
    """Return what a node casts to; None where it is no cast."""
    import onnx_ir as ir

    return ir.DataType(node.attributes["to"].as_int()) if node.op_type == "Cast" else None


def _half_tensor(tensor: "ir.TensorProtocol", value: "ir.Value") -> "ir.LazyTensor":
    """Return `tensor` in the type that the converter has chosen for `value`, computed when it is written."""
    import numpy as np
    import onnx_ir as ir

    if value.dtype != ir.DataType.FLOAT16:
        return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=value.name)

    def convert() -> "ir.TensorProtocol":
        wide = tensor.numpy()
        # What float16 rounds to zero keeps its sign and least size, and nothing becomes infinite.
        small = np.where((wide != 0) & (np.abs(wide) < MIN_CONSTANT), np.copysign(MIN_CONSTANT, wide), wide)
        return ir.Tensor(np.clip(small, -MAX_CONSTANT, MAX_CONSTANT).astype(np.float16))

    return ir.LazyTensor(convert, dtype=ir.DataType.FLOAT16, shape=ir.Shape(tensor.shape.numpy()), name=value.name)


def _grows(value: "ir.Value") -> bool:
    node = value.producer()
    return node is not None and node.op_type in WATCHED


def _check_range(given: OnnxModel, ctx: Context) -> dict[str, Any]:
    """Look for values beyond float16 in the float32 graph; returns the largest found.

    Running the fp16 file would not show them on a CPU: ONNX Runtime computes there in float32 and drops casts between.
    """
    import numpy as np

    from converter.onnx.activations import stream_activations
    from converter.onnx.quantize.overflows import float_values
    from converter.onnx.read import read_onnx

    texts = ctx.calibration[:TRIED]
    if not texts:
        return {"texts": 0}
    model = read_onnx(given.files[MODEL])
    names = [str(v.name) for v in float_values(model) if not v.is_graph_output() and _grows(v)]
    folder = ctx.work / "fp16"
    largest, where = 0.0, ""
    for values in stream_activations(model, names, given.source, texts, folder, ctx.progress):
        for name, value in values.items():
            found = float(np.abs(value).max(initial=0.0))
            # The masks themselves are made small by the conversion.
            if found < MASKED and not found <= largest:
                largest, where = found, name
    if not largest <= MAX_HALF:
        raise StageFailed(
            f"{where} reaches {largest:.3g}, the largest float16 is {MAX_HALF:.0f}",
            where=given.source.provenance.id,
            hint="export this model with precision none, or as int8",
        )
    return {"texts": len(texts), "largest_activation": largest}
