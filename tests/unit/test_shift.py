"""A normalization's shift goes into the biases around it, exactly, or stays where somebody needs it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="the extra 'mobile' is not installed")

from converter.tflite.derived import Derived
from converter.tflite.file import inputs_of
from converter.tflite.lower.shift import fold_shifts
from tests.graphs import Built

TOKENS, WIDTH, INNER = 5, 4, 6
SHAPE = (1, TOKENS, WIDTH)
SHIFT = np.array([3.0, -2.0, 0.5, 7.0])


def _numbers(*shape: int, seed: int = 0) -> "np.ndarray[Any, Any]":
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _normalized(made: Built, shift: "np.ndarray[Any, Any]" = SHIFT) -> tuple[int, int]:
    """Return the input, and the end of a normalization as it is lowered: `x * scale - (-shift)`."""
    given = made.tensor("given", SHAPE)
    scaled = made.binary("MUL", given, made.constant("scale", _numbers(1, 1, WIDTH, seed=1)), SHAPE)
    return given, made.binary("SUB", scaled, made.constant("minus", -shift.reshape(1, 1, -1)), SHAPE)


def _feed_forward(made: Built, given: int, *, bias: bool = True) -> int:
    """Return a layer that widens, and one that narrows again."""
    inner = made.constant("inner/bias", _numbers(INNER, seed=4)) if bias else -1
    outer = made.constant("outer/bias", _numbers(WIDTH, seed=5)) if bias else -1
    wide = made.linear(given, made.constant("inner", _numbers(INNER, WIDTH, seed=2)), inner, (1, TOKENS, INNER))
    return made.linear(wide, made.constant("outer", _numbers(WIDTH, INNER, seed=3)), outer, SHAPE)


@pytest.mark.parametrize("bias", [True, False])
def test_layers_behind_and_beside_make_up_for_the_shift(tmp_path: Path, bias: bool) -> None:
    made, feed = Built(), _numbers(*SHAPE, seed=9)
    given, normalized = _normalized(made)
    made.close([given], [made.binary("ADD", _feed_forward(made, normalized, bias=bias), normalized, SHAPE)])
    (before,) = made.run(tmp_path / "before.tflite", feed)
    assert fold_shifts(made.model, made.graph, Derived(made.model)) == 1
    assert made.kinds() == ["MUL", "FULLY_CONNECTED", "FULLY_CONNECTED", "ADD"]
    (after,) = made.run(tmp_path / "after.tflite", feed)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reader", ["an output", "a product", "a sum of no layer", "a layer that others read"])
def test_a_shift_stays_where_a_reader_has_no_bias_for_it(tmp_path: Path, reader: str) -> None:
    made, feed = Built(), _numbers(*SHAPE, seed=9)
    given, normalized = _normalized(made)
    answer = _feed_forward(made, normalized)
    more = {
        "an output": lambda: normalized,
        "a product": lambda: made.binary("MUL", normalized, normalized, SHAPE),
        "a sum of no layer": lambda: made.binary("ADD", normalized, given, SHAPE),
        "a layer that others read": lambda: made.binary("ADD", normalized, answer, SHAPE),
    }[reader]()
    made.close([given], [answer, more])
    before = made.run(tmp_path / "before.tflite", feed)
    assert fold_shifts(made.model, made.graph, Derived(made.model)) == 0
    assert "SUB" in made.kinds()
    for a, b in zip(made.run(tmp_path / "after.tflite", feed), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_shifts_around_one_layer_both_go_into_its_bias(tmp_path: Path) -> None:
    """What an attention's output layer sees: one shift through its weights, another beside it."""
    made, feed = Built(), _numbers(*SHAPE, seed=9)
    given, first = _normalized(made)
    second = made.binary(
        "SUB", made.binary("MUL", given, given, SHAPE), made.constant("m", _numbers(1, 1, WIDTH)), SHAPE
    )
    layer = made.linear(first, made.constant("w", _numbers(WIDTH, WIDTH)), made.constant("b", _numbers(WIDTH)), SHAPE)
    made.close([given], [made.binary("ADD", layer, second, SHAPE)])
    (before,) = made.run(tmp_path / "before.tflite", feed)
    assert fold_shifts(made.model, made.graph, Derived(made.model)) == 2
    (after,) = made.run(tmp_path / "after.tflite", feed)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_a_layer_that_reads_the_shift_and_is_added_to_it_gets_both(tmp_path: Path) -> None:
    """`y + W y`: once through the weights, once as it is."""
    made, feed = Built(), _numbers(*SHAPE, seed=9)
    given, normalized = _normalized(made)
    weights = made.constant("w", _numbers(WIDTH, WIDTH, seed=7))
    layer = made.linear(normalized, weights, made.constant("b", _numbers(WIDTH)), SHAPE)
    made.close([given], [made.binary("ADD", layer, normalized, SHAPE)])
    (before,) = made.run(tmp_path / "before.tflite", feed)
    assert fold_shifts(made.model, made.graph, Derived(made.model)) == 1
    (after,) = made.run(tmp_path / "after.tflite", feed)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_graphs_of_other_lengths_share_the_new_bias() -> None:
    made = [Built(), Built()]
    for one in made:
        given, normalized = _normalized(one)
        one.close([given], [_feed_forward(one, normalized)])
    # As in one file: the second graph reads the first one's buffers.
    made[1].model = made[0].model
    derived = Derived(made[0].model)
    assert [fold_shifts(one.model, one.graph, derived) for one in made] == [1, 1]
    first, second = (int(b.graph.tensors[inputs_of(b.graph.operators[1])[2]].buffer) for b in made)
    assert first == second
