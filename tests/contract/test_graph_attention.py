"""Fused attention, and what it is written out as for CPUs, answers like the attention it replaces."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from converter.examples import Example
from converter.graphs import ENCODER_INPUTS, MODEL, ModelFacts, encoder_graph
from converter.model_folder.load import load_source
from converter.onnx.export import ExportOnnx
from converter.onnx.rewrites.attention import attention_biases, fuse_attention
from converter.onnx.rewrites.clean import clean_graph
from converter.onnx.rewrites.padding import padding_masks
from converter.onnx.rewrites.sequence_first import put_sequence_first
from converter.onnx.runner import open_session
from converter.onnx.write import write_onnx
from converter.stage import Context
from tests.tiny import SENTENCES

FUSED = ("bert", "albert", "mpnet")
"""One of the plain kind, one with shared layers, one that adds relative positions to its scores."""
LEFT_ALONE = ("deberta-v2", "modernbert")
LAYERS = 2
"""Between two there is what is moved around a layer."""

SPEC = encoder_graph(ModelFacts(tuple(ENCODER_INPUTS), vocabulary=40), ())[MODEL]


def _answers(path: Path, seed: int = 0) -> list[np.ndarray]:
    session, random = open_session(path), np.random.default_rng(seed)
    made = []
    for batch, length in ((1, 1), (1, 5), (3, 17), (2, 40)):
        mask = np.ones((batch, length), dtype=np.int64)
        mask[1:, length // 2 :] = 0
        feed = {
            "input_ids": random.integers(5, 100, (batch, length)),
            "attention_mask": mask,
            "token_type_ids": np.zeros((batch, length), dtype=np.int64),
        }
        made.append(session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})[0])
    return made


@pytest.fixture(scope="module")
def exported(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `exported(family, task)`: the ONNX file of a tiny model, made once."""
    texts = tuple(Example(t) for t in SENTENCES[:4])

    @cache
    def path(family: str, task: str = "text-classification") -> Path:
        source = load_source(str(tiny(family, task, layers=1 if family == "deberta-v2" else LAYERS)))
        return ExportOnnx().run(source, Context(tmp_path_factory.mktemp(family), calibration=texts)).made.files[MODEL]

    return path


@pytest.mark.parametrize("plain_masks", [True, False])
@pytest.mark.parametrize("family", [*FUSED, *LEFT_ALONE])
def test_fused_attention_answers_alike_and_the_rest_is_left_alone(
    family: str, plain_masks: bool, exported: Callable[..., Path], tmp_path: Path
) -> None:
    path = exported(family)
    model = ir.load(path)
    biases = attention_biases(model)
    masks = padding_masks(path, biases, SPEC, 64) if plain_masks else frozenset()
    assert masks == (biases if plain_masks and family != "mpnet" else frozenset())
    fused = fuse_attention(model, masks)
    assert fused == (LAYERS if family in FUSED else 0)
    clean_graph(model)
    made = tmp_path / "fused.onnx"
    write_onnx(model, made)
    assert not any(n.op_type == "Softmax" for n in model.graph) or family in LEFT_ALONE
    for wanted, found in zip(_answers(path), _answers(made), strict=True):
        assert np.abs(wanted - found).max() <= 1e-6 * max(1.0, float(np.ptp(wanted)))


@pytest.mark.parametrize(
    ("family", "task"), [*((f, "text-classification") for f in FUSED), ("bert", "token-classification")]
)
def test_tokens_as_first_axis_change_no_answer(
    family: str, task: str, exported: Callable[..., Path], tmp_path: Path
) -> None:
    path = exported(family, task)
    model = ir.load(path)
    fuse_attention(model, padding_masks(path, attention_biases(model), SPEC, 64))
    assert put_sequence_first(model) == LAYERS
    ops = [n.op_type for n in model.graph]
    assert "MultiHeadAttention" not in ops
    assert ops.count("FusedMatMul") == 2 * LAYERS
    # In once, and out once where every token is answered: not around every layer.
    turns = [n for n in model.graph if n.op_type == "Transpose" and n.attributes["perm"].as_ints() == (1, 0, 2)]
    assert len(turns) == (2 if task == "token-classification" else 1)
    clean_graph(model)
    made = tmp_path / "turned.onnx"
    write_onnx(model, made)
    for wanted, found in zip(_answers(path), _answers(made), strict=True):
        assert wanted.shape == found.shape
        assert np.abs(wanted - found).max() <= 1e-6 * max(1.0, float(np.ptp(wanted)))


def test_a_classifier_computes_one_token_of_its_last_layer_and_a_tagger_all(exported: Callable[..., Path]) -> None:
    def last_products(task: str) -> int:
        chosen = [
            n for n in ir.load(exported("bert", task)).graph if n.op_type == "Slice" and "_row_1_0" in str(n.name)
        ]
        return len(chosen)

    assert last_products("text-classification") == 1
    assert last_products("token-classification") == 0


def test_a_wrong_scale_would_be_seen(exported: Callable[..., Path], tmp_path: Path) -> None:
    path = exported("bert")
    model = ir.load(path)
    fuse_attention(model)
    node = next(n for n in model.graph if n.op_type == "MultiHeadAttention")
    node.attributes["scale"] = ir.AttrFloat32("scale", 2 * node.attributes["scale"].as_float())
    made = tmp_path / "wrong.onnx"
    write_onnx(model, made)
    assert max(float(np.abs(a - b).max()) for a, b in zip(_answers(path), _answers(made), strict=True)) > 1e-3


def test_masks_with_a_window_are_not_taken_for_padding(tmp_path: Path) -> None:
    """A mask that also hides distant tokens is told apart at a length beyond its window."""
    for window, wanted in ((64, {"bias"}), (8, set())):
        n = 64
        near = np.abs(np.arange(n)[:, None] - np.arange(n)[None]) < window
        path = tmp_path / f"{window}.onnx"
        _window_model(near[None, None], path)
        assert padding_masks(path, ["bias"], SPEC, n) == wanted


def _window_model(near: np.ndarray, path: Path) -> None:
    """Write `bias = 0 where a token is shown and near, else -1e9`."""
    from onnx import TensorProto, helper, numpy_helper, save

    given = "attention_mask"
    constants = [
        numpy_helper.from_array(near, "near"),
        numpy_helper.from_array(np.array([1, 2]), "axes"),
        numpy_helper.from_array(np.array(0.0, dtype=np.float32), "zero"),
        numpy_helper.from_array(np.array(-1e9, dtype=np.float32), "low"),
        numpy_helper.from_array(np.array([0]), "start"),
        numpy_helper.from_array(np.array([2, 3]), "sides"),
    ]
    nodes = [
        helper.make_node("Cast", [given], ["shown"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["shown", "axes"], ["wide"]),
        helper.make_node("Shape", [given], ["n"], start=1, end=2),
        helper.make_node("Concat", ["n", "n"], ["ends"], axis=0),
        helper.make_node("Concat", ["start", "start"], ["starts"], axis=0),
        helper.make_node("Slice", ["near", "starts", "ends", "sides"], ["cut"]),
        helper.make_node("And", ["wide", "cut"], ["seen"]),
        helper.make_node("Where", ["seen", "zero", "low"], ["bias"]),
    ]
    inputs = [helper.make_tensor_value_info(given, TensorProto.INT64, ["b", "n"])]
    outputs = [helper.make_tensor_value_info("bias", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "window", inputs, outputs, constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
