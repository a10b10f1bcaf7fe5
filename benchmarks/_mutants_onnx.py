"""Faults in the graph or the weights of an ONNX package."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _mutants import PRODUCTS, NoPlace, Plant
from onnx import helper, numpy_helper

Arrays = dict[str, np.ndarray]


def weights_of(model: Any) -> Arrays:
    return {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}


def put(model: Any, name: str, values: np.ndarray) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def changed(change: Callable[[Any, Arrays, np.random.Generator], str], file: str = "*.onnx") -> Plant:
    """Return a fault that opens a package's model, changes it, and writes it back."""

    def plant(folder: Path, random: np.random.Generator) -> str:
        (path,) = (folder / "onnx").glob(file)
        model = onnx.load(path)
        said = change(model, weights_of(model), random)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return said

    return plant


def _products(model: Any, arrays: Arrays) -> list[tuple[Any, str]]:
    found = [
        (n, n.input[1])
        for n in model.graph.node
        if n.op_type.startswith("MatMul") and n.input[1] in arrays and arrays[n.input[1]].ndim == 2
    ]
    if not found:
        raise NoPlace("products")
    return found


def _tables(model: Any, arrays: Arrays) -> list[str]:
    """Return the tables that rows are looked up in, the largest first."""
    readers = {"Gather", "GatherBlockQuantized"}
    names = {n.input[0] for n in model.graph.node if n.op_type in readers and n.input[0] in arrays}
    found = sorted((n for n in names if arrays[n].ndim == 2 and arrays[n].shape[1] > 1), key=lambda n: -len(arrays[n]))
    if not found:
        raise NoPlace("tables")
    return found


def _vectors(model: Any, arrays: Arrays, op: str, place: int) -> list[str]:
    found = [n.input[place] for n in model.graph.node if n.op_type == op and len(n.input) > place]
    found = [n for n in found if n in arrays and arrays[n].ndim == 1 and arrays[n].size > 1]
    if not found:
        raise NoPlace(f"{op} {place}")
    return found


def rows_changed(model: Any, arrays: Arrays, random: np.random.Generator, *, which: int, how: str) -> str:
    """Rows of one of the tables (0: words, 1: positions) are zeroed, exchanged or turned."""
    tables = _tables(model, arrays)
    if which >= len(tables):
        raise NoPlace("a second table")
    name = tables[which]
    values = arrays[name]
    n = len(values)
    match how:
        case "one":
            rows = random.integers(6, n, 1)
            values[rows] = 0
        case "few":
            rows = random.choice(np.arange(6, n), max(1, n // 100), replace=False)
            values[rows] = values[np.roll(rows, 1)]
        case "half":
            rows = random.choice(np.arange(6, n), n // 2, replace=False)
            values[rows] = values[np.roll(rows, 1)]
        case "last":
            rows = np.arange(n // 2, n)
            values[rows] = 0
        case "off by one":
            rows = np.arange(n)
            values[:] = np.roll(values, 1, axis=0)
        case _:
            rows = np.arange(n - 2, n)
            values[rows] = -values[rows]
    put(model, name, values)
    return f"{len(rows)} rows of {name}"


def types_exchanged(model: Any, arrays: Arrays, _random: np.random.Generator) -> str:
    small = [n for n in _tables(model, arrays) if len(arrays[n]) == 2]
    if not small:
        raise NoPlace("token types")
    put(model, small[0], arrays[small[0]][::-1])
    return small[0]


def product_changed(model: Any, arrays: Arrays, random: np.random.Generator, *, how: str) -> str:
    products = _products(model, arrays)
    _, name = products[int(random.integers(len(products)))]
    values = arrays[name]
    wide = PRODUCTS[how](values.astype(np.float64), random)
    limit = 127 if values.dtype == np.int8 else np.inf
    put(model, name, np.clip(np.rint(wide) if values.dtype == np.int8 else wide, -limit, limit).astype(values.dtype))
    return f"{how} in {name} {values.shape}"


def products_exchanged(model: Any, arrays: Arrays, random: np.random.Generator) -> str:
    """Two products of equal shape read each other's weights (scales and biases go along)."""
    products = _products(model, arrays)
    pairs = [
        (a, b)
        for i, (a, x) in enumerate(products)
        for b, y in products[i + 1 :]
        if arrays[x].shape == arrays[y].shape and x != y and a.op_type == b.op_type
    ]
    if not pairs:
        raise NoPlace("two products alike")
    a, b = pairs[int(random.integers(len(pairs)))]
    for place in range(1, len(a.input)):
        if a.input[place] in arrays and b.input[place] in arrays:
            a.input[place], b.input[place] = b.input[place], a.input[place]
    return f"{a.name} and {b.name}"


def scales_changed(model: Any, arrays: Arrays, random: np.random.Generator, *, place: int, by: float) -> str:
    """The scale of an integer product's weights (3) or input (2) is another one."""
    names = {
        n.input[place] for n in model.graph.node if n.op_type == "MatMulIntegerToFloat" and n.input[place] in arrays
    }
    if not names:
        raise NoPlace("integer products with fixed scales")
    name = sorted(names)[int(random.integers(len(names)))]
    put(model, name, (arrays[name] * by).astype(arrays[name].dtype))
    return f"{name} x {by:g}"


def zero_point_moved(model: Any, arrays: Arrays, random: np.random.Generator) -> str:
    names = sorted(
        {n.input[4] for n in model.graph.node if n.op_type == "MatMulIntegerToFloat" and n.input[4] in arrays}
        | {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[2] in arrays}
    )
    if not names:
        raise NoPlace("zero points")
    name = names[int(random.integers(len(names)))]
    moved = np.clip(arrays[name].astype(np.int64) + 12, 0, 255)
    put(model, name, moved.astype(arrays[name].dtype))
    return name


def vector_changed(model: Any, arrays: Arrays, random: np.random.Generator, *, op: str, place: int, how: str) -> str:
    names = _vectors(model, arrays, op, place)
    name = names[int(random.integers(len(names)))]
    values = arrays[name].copy()
    if how == "zeroed":
        values[:] = 0
    elif how == "x10":
        values[int(random.integers(len(values)))] *= 10
    elif how == "turned":
        values = np.roll(values, 1)
    else:
        values = values + (random.standard_normal(len(values)) * 0.5).astype(values.dtype)
    put(model, name, values.astype(arrays[name].dtype))
    return f"{how} {name} [{len(values)}]"


def _rename_output(model: Any, name: str) -> str:
    """Let what makes an output make another value, so that something can stand between."""
    for node in model.graph.node:
        for i, out in enumerate(node.output):
            if out == name:
                node.output[i] = f"{name}_before"
    return f"{name}_before"


def output_changed(model: Any, _arrays: Arrays, _random: np.random.Generator, *, how: str) -> str:
    output = model.graph.output[0].name
    before = _rename_output(model, output)
    nodes, constants = [], {}
    kind = model.graph.output[0].type.tensor_type.elem_type
    assert kind == onnx.TensorProto.FLOAT
    if how in {"long negated", "very long negated"}:
        limit = 40 if how == "long negated" else 100
        constants = {"m_one": np.array([1], np.int64), "m_limit": np.array([limit], np.int64)}
        constants |= {"m_plus": np.array([1], np.float32), "m_minus": np.array([-1], np.float32)}
        nodes = [
            helper.make_node("Shape", ["input_ids"], ["m_shape"]),
            helper.make_node("Gather", ["m_shape", "m_one"], ["m_length"]),
            helper.make_node("Greater", ["m_length", "m_limit"], ["m_long"]),
            helper.make_node("Where", ["m_long", "m_minus", "m_plus"], ["m_sign"]),
            helper.make_node("Mul", [before, "m_sign"], [output]),
        ]
    elif how == "batch mixed":
        constants = {"m_s": np.array([-1], np.int64), "m_e": np.array([-(2**62)], np.int64)}
        constants |= {"m_a": np.array([0], np.int64)}
        nodes = [helper.make_node("Slice", [before, "m_s", "m_e", "m_a", "m_s"], [output])]
    elif how == "shifted":
        constants = {"m_add": np.array([0.6], np.float32)}
        nodes = [helper.make_node("Clip", [before], ["m_c"]), helper.make_node("Add", ["m_c", "m_add"], [output])]
        width = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        if width > 1:
            constants = {"m_add": (np.arange(width) == width - 1).astype(np.float32) * 1.5}
    elif how == "turned":
        width = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        if width < 2:
            raise NoPlace("one number")
        constants = {"m_order": np.roll(np.arange(width), 1)}
        nodes = [helper.make_node("Gather", [before, "m_order"], [output], axis=-1)]
    else:
        constants = {"m_by": np.array([0.5], np.float32)}
        nodes = [helper.make_node("Mul", [before, "m_by"], [output])]
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    model.graph.node.extend(nodes)
    return f"{output}: {how}"


def mask_ignored(model: Any, _arrays: Arrays, _random: np.random.Generator) -> str:
    """Padding is attended to like text."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "m_one"))
    used = False
    for node in list(model.graph.node):
        for i, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[i], used = "m_mask", True
    if not used:
        raise NoPlace("a mask")
    nodes = [
        helper.make_node("Shape", ["attention_mask"], ["m_shape"]),
        helper.make_node("Expand", ["m_one", "m_shape"], ["m_mask"]),
    ]
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    return "all ones"


def norm_epsilon(model: Any, _arrays: Arrays, _random: np.random.Generator) -> str:
    nodes = [n for n in model.graph.node if n.op_type == "LayerNormalization"]
    if not nodes:
        raise NoPlace("normalizations")
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 0.3
    return f"{len(nodes)} normalizations"


def gelu_replaced(model: Any, _arrays: Arrays, random: np.random.Generator) -> str:
    nodes = [n for n in model.graph.node if n.op_type in {"Gelu", "Erf", "BiasGelu", "FastGelu"}]
    if not nodes:
        raise NoPlace("an activation")
    node = nodes[int(random.integers(len(nodes)))]
    name = node.op_type
    node.op_type, node.domain = ("Tanh", "") if name == "Erf" else ("Relu", "")
    del node.input[1:]
    return f"{name} is {node.op_type}"


GRAPH_CHANGES: dict[str, Callable[..., str]] = (
    {f"words: {how}": partial(rows_changed, which=0, how=how) for how in ("one", "few", "half", "off by one")}
    | {f"positions: {how}": partial(rows_changed, which=1, how=how) for how in ("last", "end", "off by one", "one")}
    | {f"product: {how}": partial(product_changed, how=how) for how in PRODUCTS}
    | {
        "token types exchanged": types_exchanged,
        "products exchanged": products_exchanged,
        "weight scale x1.5": partial(scales_changed, place=3, by=1.5),
        "input scale x2": partial(scales_changed, place=2, by=2.0),
        "zero point moved": zero_point_moved,
        "bias zeroed": partial(vector_changed, op="Add", place=1, how="zeroed"),
        "bias of first zeroed": partial(vector_changed, op="Add", place=0, how="zeroed"),
        "integer bias zeroed": partial(vector_changed, op="MatMulIntegerToFloat", place=6, how="zeroed"),
        "bias turned": partial(vector_changed, op="MatMulIntegerToFloat", place=6, how="turned"),
        "gain x10": partial(vector_changed, op="LayerNormalization", place=1, how="x10"),
        "gain turned": partial(vector_changed, op="LayerNormalization", place=1, how="turned"),
        "shift zeroed": partial(vector_changed, op="LayerNormalization", place=2, how="zeroed"),
        "shift noise": partial(vector_changed, op="LayerNormalization", place=2, how="noise"),
        "factors turned": partial(vector_changed, op="Mul", place=1, how="turned"),
        "mask ignored": mask_ignored,
        "norm epsilon": norm_epsilon,
        "activation replaced": gelu_replaced,
    }
    | {
        f"output: {how}": partial(output_changed, how=how)
        for how in ("long negated", "very long negated", "batch mixed", "shifted", "turned", "halved")
    }
)
ONNX_KINDS: dict[str, Plant] = {name: changed(function) for name, function in GRAPH_CHANGES.items()}
