"""The parts of lowering that need no conversion."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import PackageDamaged, RecipeError, UsageError
from converter.examples import Example
from converter.graphs import ModelFacts, encoder_graph
from converter.model_folder.load import load_source
from converter.quantize.litert_static import LitertStaticInt8
from converter.recipe import bind_recipe
from converter.stage import Context
from converter.tflite.lengths.rows import filled_rows
from converter.tflite.lower.graph import _attention, _layer_norm
from converter.tflite.model import signature_lengths
from converter.tflite.quantize.ranges import Activation
from converter.tflite.runner import TfliteRunner
from targets.tflite import Tflite


@pytest.mark.parametrize(
    ("wanted", "longest", "made"),
    [
        ((), 512, (16, 32, 64, 128)),
        ((), 128, (16, 32, 64, 128)),
        ((), 48, (16, 32, 48)),
        ((), 8, (8,)),
        ((64, 8, 64), 64, (8, 64)),
    ],
)
def test_lengths_go_up_to_what_the_model_takes(wanted: tuple[int, ...], longest: int, made: tuple[int, ...]) -> None:
    assert signature_lengths(wanted, longest) == made


def test_a_length_beyond_the_model_is_refused_before_any_work(tiny: Callable[..., Path]) -> None:
    source = load_source(str(tiny("bert", layers=1)))
    assert Tflite(seq_len=(64,)).stages("dynamic", {}, source)
    with pytest.raises(UsageError, match="65 tokens exceeds the model's 64"):
        Tflite(seq_len=(64, 65)).stages("dynamic", {}, source)


def test_seq_len_is_bound_and_checked_as_any_option() -> None:
    table = {"model": "x", "targets": ["tflite"], "target": {"tflite": {"seq_len": [16, 8]}}}
    (target,) = bind_recipe(table).targets
    assert target == Tflite(seq_len=(16, 8))
    table["target"] = {"tflite": {"seq_len": [0]}}
    with pytest.raises(RecipeError, match="at least 1"):
        bind_recipe(table)


def test_every_precision_has_limits() -> None:
    assert tuple(Tflite.menu()) == Tflite.precisions
    assert all(precision.limits.agreement is not None for precision in Tflite.menu().values())


def test_rows_are_filled_with_text_to_the_last_token(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("bert", layers=1)))
    ctx = Context(work=tmp_path, calibration=(Example("a b"), Example("c", "d e f")))
    for length in (3, 30):
        for row in filled_rows(source, ctx, length, 3):
            assert row.length == length
            assert row.inputs["attention_mask"].all()
            assert source.tokenizer.pad_token_id not in row.inputs["input_ids"]


@pytest.mark.parametrize("shift", [True, False])
def test_normalization_is_spelled_otherwise_and_means_the_same(shift: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    x, scale, bias = torch.randn(2, 5, 16, generator=rng) * 9 + 3, torch.randn(16, generator=rng), torch.randn(16)
    wanted = torch.nn.functional.layer_norm(x, [16], scale, bias if shift else None, 1e-7)
    torch.testing.assert_close(_layer_norm(x, [16], scale, bias if shift else None, 1e-7), wanted, atol=2e-5, rtol=1e-5)


def test_attention_means_the_same_under_any_mask_that_leaves_something_to_see() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 4, generator=rng) for _ in range(3))
    mask = torch.rand(1, 1, 6, 6, generator=rng) > 0.3
    mask[..., 0] = True
    added = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    for m in (None, mask, added):
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, m)
        torch.testing.assert_close(_attention(None, q, k, v, m), wanted, atol=1e-5, rtol=1e-5)
    blind = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    assert bool(torch.isfinite(_attention(None, q, k, v, blind)).all())


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=50).filter(lambda v: np.ptp(v) > 1e-3))
def test_streamed_ranges_are_those_of_the_whole(values: list[float]) -> None:
    whole, streamed = Activation(), Activation()
    whole.add(np.array(values, np.float32))
    for value in values:
        streamed.add(np.array([value], np.float32))
    assert (streamed.low, streamed.high, streamed.count) == (whole.low, whole.high, whole.count)
    assert streamed.snr == pytest.approx(whole.snr)


def test_an_outlier_lowers_the_signal_to_noise_ratio() -> None:
    even, odd = Activation(), Activation()
    even.add(np.linspace(-1, 1, 1000, dtype=np.float32))
    odd.add(np.append(np.linspace(-1, 1, 1000, dtype=np.float32), np.float32(100)))
    assert even.snr > 40
    assert odd.snr < LitertStaticInt8().min_snr


def test_what_is_no_tflite_file_is_told_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"not a model, though long enough to be one" * 10)
    with pytest.raises(PackageDamaged, match="not a TFLite model"):
        TfliteRunner(path, encoder_graph(ModelFacts(("input_ids",)), ()))
