"""Weights in blocks of 4 and 8 bits: what rounding leaves of them, and that the file says what was rounded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.onnx.quantize.block_rounding import round_by_moments, round_to_nearest
from converter.onnx.quantize.input_scales import search_input_scales
from converter.onnx.rewrites.block_products import fitting_block, write_block_products

BLOCK = 32
RANDOM = np.random.default_rng(0)


def weights(rows: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)


def share(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(np.square(wanted - found).sum() / np.square(wanted).sum())


def test_eight_bits_are_within_half_a_step() -> None:
    given = weights()
    made = round_to_nearest(given, 8, BLOCK)
    steps = np.repeat(np.abs(made.scales), BLOCK, axis=1)
    assert (np.abs(made.wide() - given) <= steps * 0.51).all()


def test_four_bits_use_all_sixteen_steps_and_lose_less_than_a_scale_of_the_largest_weight() -> None:
    given = weights()
    made = round_to_nearest(given, 4, BLOCK)
    assert set(made.values.reshape(-1).tolist()) == set(range(-8, 8))
    blocks = given.reshape(48, -1, BLOCK)
    step = np.abs(blocks).max(axis=2, keepdims=True) / 7
    plain = (np.clip(np.rint(blocks / step), -7, 7) * step).reshape(given.shape)
    assert share(given, made.wide()) < 0.9 * share(given, plain)


def test_scales_are_those_that_half_precision_holds() -> None:
    made = round_to_nearest(weights() * np.float32(1e-7), 4, BLOCK)
    assert np.array_equal(made.scales.astype(np.float16).astype(np.float32), made.scales)
    assert (made.scales != 0).all()


def test_a_width_that_is_no_multiple_of_a_block_keeps_its_last_inputs() -> None:
    given = weights(width=48)
    made = round_to_nearest(given, 8, BLOCK)
    assert made.wide().shape == given.shape
    assert share(given, made.wide()) < 1e-4


@pytest.mark.parametrize(
    ("inputs", "block"), [(512, 128), (1024, 128), (192, 64), (96, 32), (64, 64), (32, 32), (1840, 128), (2832, 128)]
)
def test_a_block_is_as_large_as_what_fills_the_last_one_allows(inputs: int, block: int) -> None:
    """Widths of pruned layers are multiples of 16: small blocks would read more scales than the zeros they save."""
    assert fitting_block(inputs, 128, 8) == block
    assert fitting_block(inputs, 16, 8) == 16
    assert fitting_block(1840, 32, 4) == 32


@pytest.mark.parametrize(("inputs", "block"), [(512, 128), (1840, 16), (96, 32), (100, 128)])
def test_rows_that_are_looked_up_end_with_a_block(inputs: int, block: int) -> None:
    assert fitting_block(inputs, 128, 8, looked_up=True) == block


def test_rounding_by_moments_keeps_more_of_what_the_product_gives() -> None:
    mixing = RANDOM.standard_normal((64, 64)).astype(np.float32)
    rows = (RANDOM.standard_normal((512, 12)) @ mixing[:12] + 0.1 * RANDOM.standard_normal((512, 64))).astype(
        np.float32
    )
    given, moments = weights(), (rows.T @ rows / len(rows)).astype(np.float32)
    nearest, fitted = (
        share(rows @ given.T, rows @ made.wide().T)
        for made in (round_to_nearest(given, 4, BLOCK), round_by_moments(given, 4, BLOCK, moments))
    )
    assert fitted < 0.6 * nearest


def test_input_scales_are_found_where_one_channel_carries_the_text_and_not_where_none_does() -> None:
    rows = RANDOM.standard_normal((256, 64)).astype(np.float32)
    loud = rows * np.where(np.arange(64) % 16 == 3, 30, 1).astype(np.float32)
    given = weights()
    factors, ratio = search_input_scales(loud, [given], 4, BLOCK)
    assert ratio < 0.5
    assert factors[3] > 1.5 * factors[4]
    before, after = (
        share(loud @ given.T, loud @ (round_to_nearest(given * f, 4, BLOCK).wide() / f).T)
        for f in (np.ones(64, np.float32), factors)
    )
    assert after < 0.7 * before
    assert search_input_scales(rows, [given], 4, BLOCK)[1] > 0.9


def tied_model(width: int = 64) -> Any:
    """Return a graph that looks rows of a table up, and multiplies what is fed by the same table, turned."""
    import onnx_ir as ir

    from converter.onnx.rewrites.projections import new_weight

    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "sequence"]))
    given = ir.Value(name="given", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", "sequence", width]))
    graph = ir.Graph([ids, given], [], nodes=[], opset_imports={"": 18}, name="tied")
    table = new_weight(graph, weights(96, width), "table")
    turn = ir.node("Transpose", [table], {"perm": [1, 0]}, name="turn")
    look = ir.node("Gather", [table, ids], name="look")
    product = ir.node("MatMul", [given, turn.outputs[0]], name="product")
    for node, name, last in ((turn, "turned", None), (look, "row", width), (product, "logits", 96)):
        node.outputs[0].name = name
        graph.append(node)
        if last is not None:
            value = node.outputs[0]
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", "sequence", last])
            graph.outputs.append(value)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_tied_table_is_once_in_the_file_looked_up_exactly_and_multiplied_nearly(bits: int, tmp_path: Path) -> None:
    from converter.onnx.runner import open_session
    from converter.onnx.write import write_onnx

    model, made = tied_model(), round_to_nearest(weights(96), bits, BLOCK)
    write_block_products(model, {"table": made})
    write_onnx(model, tmp_path / "tied.onnx")
    n_bytes = made.values.size * bits // 8 + made.scales.size * 2
    assert n_bytes < (tmp_path / "tied.onnx").stat().st_size < n_bytes + 1500
    session = open_session(tmp_path / "tied.onnx")
    ids, given = RANDOM.integers(0, 96, (2, 5)), RANDOM.standard_normal((2, 5, 64)).astype(np.float32)
    row, logits = session.run(["row", "logits"], {"ids": ids, "given": given})
    assert np.array_equal(row, made.wide()[ids])
    wanted = given @ made.wide().T
    assert np.abs(logits - wanted).max() < 0.02 * np.abs(wanted).max()


def test_a_scale_that_is_wrong_is_seen_in_what_is_looked_up(tmp_path: Path) -> None:
    from dataclasses import replace

    made = round_to_nearest(weights(96), 4, BLOCK)
    scales = made.scales.copy()
    scales[7, 1] *= 2
    assert share(weights(96), made.wide()) < 0.02 < share(weights(96)[7], replace(made, scales=scales).wide()[7])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("wrong", [None, 2.0, -1.0])
def test_a_file_in_blocks_is_compared_with_its_model_and_a_wrong_scale_is_caught(
    bits: int, wrong: float | None, tmp_path: Path
) -> None:
    from converter.onnx.parameters import stored_parameters
    from converter.onnx.write import write_onnx
    from converter.validate.tables import compared_rows
    from converter.validate.weights import LIMIT
    from converter.validate.weights_match import known, match_product

    given = weights(96, 256)
    made = round_to_nearest(given, bits, BLOCK)
    if wrong is not None:
        made.scales[7, 1] *= wrong
    model = tied_model(256)
    write_block_products(model, {"table": made})
    write_onnx(model, tmp_path / "tied.onnx")
    found = {s.kind: s for s in stored_parameters(tmp_path / "tied.onnx")}
    assert (found["product"].bits, found["product"].block) == (bits, BLOCK)
    assert np.array_equal(found["product"].values, made.wide().T)
    assert np.array_equal(found["table"].values, made.wide())
    ((block,), lost) = match_product(found["product"], known({"head": given.T}))
    (table,) = compared_rows(found["table"], {"words": given})
    assert not lost
    if wrong is None:
        assert block.errors.max() < LIMIT / 2
        assert table.wrong == ()
    else:
        # One output of 96 has a say in what rows were multiplied by: others may be off too, none as far.
        assert block.errors.argmax() == 7
        assert block.errors[7] > LIMIT
        assert table.wrong == (7,)
