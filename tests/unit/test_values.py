"""Strong channels of attention's output are weakened in the layer that makes the values, exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="the extra 'mobile' is not installed")

from converter.tflite.derived import Derived
from converter.tflite.file import inputs_of
from converter.tflite.quantize.moments import Moments
from converter.tflite.quantize.smooth import buffer_of
from converter.tflite.quantize.values import balance_values
from tests.graphs import Built

TOKENS, HEADS, SIZE = 5, 2, 3
WIDTH = HEADS * SIZE
LOUD = 4
"""A channel of the values that speaks far louder than the others."""


def _attention(order: tuple[int, ...] = (0, 2, 1, 3), shared: bool = False) -> tuple[Built, dict[int, Moments]]:
    """Return a graph of values, their sums by given probabilities, and an output layer; and what the layers read."""
    from ai_edge_litert import schema_py_generated as schema

    made, rng = Built(), np.random.default_rng(0)
    given, share = made.tensor("given", (1, TOKENS, WIDTH)), made.tensor("share", (1, HEADS, TOKENS, TOKENS))
    weights = rng.normal(size=(WIDTH, WIDTH)) * np.where(np.arange(WIDTH) == LOUD, 100.0, 1.0)[:, None]
    heads = made.constant("heads", np.array([1, TOKENS, HEADS, SIZE]))
    turned = made.constant("order", np.array(order))
    flat = (1, TOKENS, WIDTH)
    held = made.constant("values", weights)
    value = made.linear(given, held, made.constant("values/bias", rng.normal(size=WIDTH)), flat)
    by_head = made.add("TRANSPOSE", [made.add("RESHAPE", [value, heads], (1, TOKENS, HEADS, SIZE)), turned],
                       (1, HEADS, TOKENS, SIZE))  # fmt: skip
    summed = made.add("BATCH_MATMUL", [share, by_head], (1, HEADS, TOKENS, SIZE), schema.BatchMatMulOptionsT())
    back = made.add("TRANSPOSE", [summed, turned], (1, TOKENS, HEADS, SIZE))
    joined = made.add("RESHAPE", [back, made.constant("flat", np.array([TOKENS, WIDTH]))], (TOKENS, WIDTH))
    output = held if shared else made.constant("output", rng.normal(size=(WIDTH, WIDTH)))
    made.close([given, share], [made.linear(joined, output, -1, (TOKENS, WIDTH))])
    loudness = np.where(np.arange(WIDTH) == LOUD, 1e4, 1.0)
    layers = [made.graph.operators[0], made.graph.operators[-1]]
    seen = {buffer_of(made.graph, op): Moments(np.diag(loudness).astype(np.float32), 1) for op in layers}
    return made, seen


def _feed() -> list["np.ndarray[Any, Any]"]:
    rng = np.random.default_rng(1)
    share = rng.random((1, HEADS, TOKENS, TOKENS)).astype(np.float32)
    return [rng.normal(size=(1, TOKENS, WIDTH)).astype(np.float32), share / share.sum(-1, keepdims=True)]


def _output_input(made: Built) -> "np.ndarray[Any, Any]":
    return made.model.buffers[buffer_of(made.graph, made.graph.operators[-1])].data.view(np.float32)


def test_answers_are_the_same_and_the_loud_channel_is_as_the_others(tmp_path: Path) -> None:
    made, seen = _attention()
    (before,) = made.run(tmp_path / "before.tflite", *_feed())
    made, seen = _attention()
    assert balance_values(made.model, made.graph, seen, 0.5, Derived(made.model)) == 1
    spread = np.sqrt(np.diag(seen[buffer_of(made.graph, made.graph.operators[-1])].second))
    assert spread.max() / spread.min() < 30, "a hundred times as loud before"
    kinds = made.kinds()
    (after,) = made.run(tmp_path / "after.tflite", *_feed())
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-3)
    assert "MUL" not in kinds, "balanced at no cost"


def test_weights_that_two_layers_share_are_left_alone() -> None:
    made, seen = _attention(shared=True)
    assert balance_values(made.model, made.graph, seen, 0.5, Derived(made.model)) == 0


def test_channels_in_another_order_are_left_alone() -> None:
    made, seen = _attention(order=(0, 1, 2, 3))
    before = [inputs_of(op) for op in made.graph.operators]
    assert balance_values(made.model, made.graph, seen, 0.5, Derived(made.model)) == 0
    assert [inputs_of(op) for op in made.graph.operators] == before


def test_no_strength_changes_nothing() -> None:
    made, seen = _attention()
    assert balance_values(made.model, made.graph, seen, 0.0, Derived(made.model)) == 0
