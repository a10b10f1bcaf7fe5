"""Fused attention answers like the attention it replaces."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from converter.examples import Example
from converter.export import ExportOnnx
from converter.graph.attention import fuse_attention
from converter.graph.clean import clean_graph
from converter.graph.write import write_onnx
from converter.onnx_runner import open_session
from converter.source import load_source
from converter.stage import Context
from tests.tiny import SENTENCES

FUSED = ("bert", "albert", "mpnet")
"""One of the plain kind, one with shared layers, one that adds relative positions to its scores."""
LEFT_ALONE = ("deberta-v2", "modernbert")


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


def _export(folder: Path, work: Path) -> Path:
    texts = tuple(Example(t) for t in SENTENCES[:4])
    return ExportOnnx().run(load_source(str(folder)), Context(work, calibration=texts)).made.path


@pytest.mark.parametrize("family", [*FUSED, *LEFT_ALONE])
def test_fused_attention_answers_alike_and_the_rest_is_left_alone(
    family: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = _export(tiny(family, "text-classification"), tmp_path)
    model = ir.load(path)
    fused = fuse_attention(model)
    assert fused == (3 if family in FUSED else 0)
    clean_graph(model)
    made = tmp_path / "fused.onnx"
    write_onnx(model, made)
    assert not any(n.op_type == "Softmax" for n in model.graph) or family in LEFT_ALONE
    for wanted, found in zip(_answers(path), _answers(made), strict=True):
        assert np.abs(wanted - found).max() <= 1e-6 * max(1.0, float(np.ptp(wanted)))


def test_a_wrong_scale_would_be_seen(tiny: Callable[..., Path], tmp_path: Path) -> None:
    path = _export(tiny("bert", "text-classification"), tmp_path)
    model = ir.load(path)
    fuse_attention(model)
    node = next(n for n in model.graph if n.op_type == "MultiHeadAttention")
    node.attributes["scale"] = ir.AttrFloat32("scale", 2 * node.attributes["scale"].as_float())
    made = tmp_path / "wrong.onnx"
    write_onnx(model, made)
    assert max(float(np.abs(a - b).max()) for a, b in zip(_answers(path), _answers(made), strict=True)) > 1e-3
