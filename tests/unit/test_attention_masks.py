"""Masks in a few nodes say what they said before, and one that says anything else is left as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.onnx.rewrites.attention_masks import shorten_masks
from converter.onnx.runner import open_session
from converter.onnx.write import write_onnx

BATCH, LENGTH, PAST, SOURCE = "batch_size", "sequence_length", "past_sequence_length", "encoder_sequence_length"
WIDTH, HEADS = 8, 2
GIVEN = {"encoder_attention_mask", "input_ids", "q", "k", "v", "one", "zero", "seen", "unseen"}
LOWEST = np.float32(np.finfo(np.float32).min)


def graph(nodes: list[Any], given: dict[str, tuple[int, list[Any]]], weights: dict[str, Any]) -> ir.Model:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in given.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(made, opset_imports=opsets, ir_version=10))


def attention(inputs: list[str]) -> Any:
    # With a cache it must give one, too: without the outputs it reads memory that nobody wrote.
    gives = ["y", "present_k", "present_v"] if len(inputs) > 6 else ["y"]
    return helper.make_node("MultiHeadAttention", inputs, gives, domain="com.microsoft", num_heads=HEADS)


def crossing(*, seen: float = 0.0, unseen: float = float(LOWEST)) -> ir.Model:
    """Attention to a source whose padding is masked the long way."""
    nodes = [
        helper.make_node("Unsqueeze", ["encoder_attention_mask", "one"], ["wide"]),
        helper.make_node("Unsqueeze", ["wide", "one"], ["wider"]),
        helper.make_node("Shape", ["input_ids"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "one"], ["length"]),
        helper.make_node("Concat", ["one", "one", "length", "one"], ["shape"], axis=0),
        helper.make_node("Expand", ["wider", "shape"], ["rows"]),
        helper.make_node("Equal", ["rows", "zero"], ["padding"]),
        helper.make_node("Where", ["padding", "unseen", "seen"], ["bias"]),
        attention(["q", "k", "v", "", "", "bias"]),
    ]
    states = (TensorProto.FLOAT, [BATCH, SOURCE, WIDTH])
    given = {
        "encoder_attention_mask": (TensorProto.INT64, [BATCH, SOURCE]),
        "input_ids": (TensorProto.INT64, [BATCH, LENGTH]),
        "q": (TensorProto.FLOAT, [BATCH, LENGTH, WIDTH]),
        "k": states,
        "v": states,
    }
    weights = {"one": np.array([1]), "zero": np.array(0), "seen": np.float32(seen), "unseen": np.float32(unseen)}
    return graph(nodes, given, weights)


def growing(*, ahead: int = 0, window: int | None = None) -> ir.Model:
    """Attention to what was written before, `window` tokens of it at most, and to `ahead` tokens more than that."""
    nearby = [
        helper.make_node("Sub", ["column", "window"], ["first"]),
        helper.make_node("Greater", ["places", "first"], ["near"]),
        helper.make_node("And", ["earlier", "near"], ["seen_of_all"]),
    ]
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["length_row"], start=1, end=2),
        helper.make_node("Squeeze", ["length_row"], ["length"]),
        helper.make_node("Shape", ["past_k"], ["past_row"], start=2, end=3),
        helper.make_node("Squeeze", ["past_row"], ["held"]),
        helper.make_node("Add", ["held", "length"], ["total"]),
        helper.make_node("Range", ["zero", "total", "step"], ["places"]),
        helper.make_node("Range", ["held", "total", "step"], ["own"]),
        helper.make_node("Add", ["own", "ahead"], ["last"]),
        helper.make_node("Unsqueeze", ["last", "one"], ["column"]),
        helper.make_node("LessOrEqual", ["places", "column"], ["earlier"]),
        *([] if window is None else nearby),
        helper.make_node("Unsqueeze", ["earlier" if window is None else "seen_of_all", "front"], ["rows"]),
        helper.make_node("Where", ["rows", "seen", "unseen"], ["bias"]),
        attention(["q", "k", "v", "", "", "bias", "past_k", "past_v"]),
    ]
    states = (TensorProto.FLOAT, [BATCH, LENGTH, WIDTH])
    past = (TensorProto.FLOAT, [BATCH, HEADS, PAST, WIDTH // HEADS])
    given = {"input_ids": (TensorProto.INT64, [BATCH, LENGTH]), "q": states, "k": states, "v": states}
    weights = {"one": np.array([1]), "front": np.array([0, 1]), "zero": np.array(0), "step": np.array(1)}
    weights |= {"ahead": np.array(ahead), "seen": np.float32(0), "unseen": LOWEST}
    weights |= {} if window is None else {"window": np.array(window)}
    return graph(nodes, given | {"past_k": past, "past_v": past}, weights)


def answer(model: ir.Model, sizes: dict[str, int], tmp_path: Path) -> np.ndarray:
    write_onnx(model, tmp_path / "run.onnx")
    random, feed = np.random.default_rng(3), {}
    for value in model.graph.inputs:
        shape = [sizes.get(str(getattr(d, "value", d)), d) for d in value.shape.dims]
        kind = np.int64 if value.dtype == ir.DataType.INT64 else np.float32
        feed[value.name] = (
            random.standard_normal(shape) > 0 if kind is np.int64 else random.standard_normal(shape)
        ).astype(kind)
        if kind is np.int64:
            feed[value.name][:, 0] = 1
    return np.asarray(open_session(tmp_path / "run.onnx").run(None, feed)[0])


@pytest.mark.parametrize("make", [crossing, growing])
def test_a_mask_in_a_few_nodes_says_what_it_said(make: Any, tmp_path: Path) -> None:
    cases = [{BATCH: b, LENGTH: n, PAST: p, SOURCE: s} for b, n, p, s in ((1, 1, 0, 4), (3, 2, 5, 6), (2, 1, 9, 1))]
    model = make()
    before = [answer(model, sizes, tmp_path) for sizes in cases]
    assert shorten_masks(model) == 1
    assert not {"Equal", "Gather"} & {n.op_type for n in model.graph}
    for sizes, wanted in zip(cases, before, strict=True):
        np.testing.assert_array_equal(answer(model, sizes, tmp_path), wanted)


@pytest.mark.parametrize(
    "model",
    [
        crossing(seen=0.5),
        crossing(unseen=-2.0),
        crossing(seen=float(LOWEST), unseen=0.0),
        growing(ahead=1),
    ],
    ids=["a bias", "padding that counts", "padding alone", "the next token"],
)
def test_what_says_anything_else_is_left_as_it_is(model: ir.Model) -> None:
    before = [n.op_type for n in model.graph]
    assert shorten_masks(model) == 0
    assert [n.op_type for n in model.graph] == before


@pytest.mark.parametrize("window", [4, 6, 8, 10, 11, 64, 4096])
def test_a_window_of_tokens_is_left_as_it_is_however_wide(window: int) -> None:
    assert shorten_masks(growing(window=window)) == 0


def test_masks_of_one_kind_that_every_layer_makes_are_all_shortened() -> None:
    model = ir.to_proto(crossing())
    for i, node in enumerate(model.graph.node):
        node.name = f"node_{i}"
    again = [n for n in model.graph.node if n.op_type != "MultiHeadAttention"]
    second = attention(["q", "k", "v", "", "", "bias_2"])
    second.output[:] = ["y_2"]
    for node in again:
        made = model.graph.node.add()
        made.CopyFrom(node)
        made.name = f"{node.name}_2"
        made.input[:] = [name if name in GIVEN else f"{name}_2" for name in node.input]
        made.output[:] = [f"{name}_2" for name in node.output]
    model.graph.node.append(second)
    model.graph.output.append(helper.make_tensor_value_info("y_2", TensorProto.FLOAT, None))
    assert shorten_masks(ir.from_proto(model)) == 2
