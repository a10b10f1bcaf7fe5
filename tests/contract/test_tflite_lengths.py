"""What is made of two lowered lengths: signatures, a file for any length, MediaPipe's variant, and tables in int8."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.device.runtime import min_runtime_version
from converter.errors import UsageError
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.quantize.litert_dynamic import LitertDynamicInt8
from converter.quantize.litert_int4 import LitertInt4
from converter.quantize.litert_mixed import LitertMixed
from converter.quantize.litert_static import LitertStaticInt8
from converter.quantize.litert_weights import LitertWeights
from converter.reference import torch_run
from converter.stage import Context, Record, run_stage
from converter.tflite.file import code_of, constant, inputs_of, read_flat, text, write_flat
from converter.tflite.lengths.any_length import write_any_length
from converter.tflite.lengths.rows import filled_rows
from converter.tflite.lengths.stamp import LengthDependent
from converter.tflite.lower.lower import LowerTflite
from converter.tflite.model import TfliteModel
from converter.tflite.quantize.tables import quantize_tables
from converter.tflite.runner import TfliteRunner
from converter.tflite.versions import as_numbers
from tests.tiny import SENTENCES

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

LENGTHS = (8, 14, 20)
FLOAT32_ERROR = 1e-4
EMBEDDING_LOOKUP, FULLY_CONNECTED = BY_ROW = 7, 9


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(work=tmp_path_factory.mktemp("work"), calibration=tuple(Example(s) for s in SENTENCES))


@pytest.fixture(scope="module")
def lowered(tiny: Callable[..., Path], ctx: Context) -> tuple[TfliteModel, Record]:
    return run_stage(LowerTflite(LENGTHS), load_source(str(tiny("bert", layers=1))), ctx)


@pytest.fixture(scope="module")
def bert(lowered: tuple[TfliteModel, Record]) -> TfliteModel:
    return lowered[0]


def _feed(made: TfliteModel, ctx: Context, length: int) -> dict[str, Any]:
    row = filled_rows(made.source, ctx, LENGTHS[-1], 1)[0]
    return {name: ids[None, :length] for name, ids in row.inputs.items()}


def test_all_lengths_are_made_of_two_and_the_last_layer_works_for_one_token(
    lowered: tuple[TfliteModel, Record],
) -> None:
    facts = lowered[1].facts
    assert facts["stamped"] is True
    assert facts["narrowed_to_one_token"] > 20
    model = read_flat(lowered[0].path)
    assert [text(s.signatureKey) for s in model.signatureDefs] == ["serving_20", "serving_14", "serving_8"]


def test_an_architecture_that_allows_no_stamp_is_lowered_at_every_length(bert: TfliteModel, ctx: Context) -> None:
    """A stamp that breaks the graph is found by comparison, and costs time only."""

    def broken(model: Any, lengths: tuple[int, ...]) -> None:
        del model.subgraphs[0].operators[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("converter.tflite.lower.lower.stamp", broken)
        made, record = run_stage(LowerTflite((8, 20)), bert.source, ctx)
    assert record.facts["stamped"] is False
    assert (made.lengths, record.facts["max_relative_error"] <= FLOAT32_ERROR) == ((8, 20), True)


def test_one_file_takes_any_length_up_to_its_longest(bert: TfliteModel, ctx: Context, tmp_path: Path) -> None:
    path = tmp_path / "any.tflite"
    write_any_length(bert.path, path, LENGTHS[-1])
    runner, wanted = TfliteRunner(path, bert.source.specs), torch_run(bert.source)
    assert (runner.lengths, runner.max_length, runner.graphs[MODEL].inputs[0].shape) == ((), LENGTHS[-1], (1, None))
    for length in (20, 3, 1, 13, 2, 19, 20):
        feed = _feed(bert, ctx, length)
        np.testing.assert_allclose(runner.run(MODEL, feed)["logits"], wanted(MODEL, feed)["logits"], atol=FLOAT32_ERROR)
    with pytest.raises(UsageError, match="21 tokens, the file takes at most 20"):
        runner.run(MODEL, {n: np.ones((1, 21), np.int64) for n in bert.source.input_names})


def test_past_its_longest_the_last_position_goes_on(bert: TfliteModel, tmp_path: Path) -> None:
    """Who calls the file without our runner gets an answer, not memory that is not the file's."""
    from ai_edge_litert.interpreter import Interpreter

    write_any_length(bert.path, tmp_path / "any.tflite", LENGTHS[-1])
    run = Interpreter(str(tmp_path / "any.tflite")).get_signature_runner("serving_up_to_20")
    made = run(**{n: np.ones((1, 40), np.int32) for n in bert.source.input_names})["logits"]
    assert np.isfinite(made).all()


def test_one_length_alone_makes_no_file_for_any(bert: TfliteModel, tmp_path: Path) -> None:
    model = read_flat(bert.path)
    model.subgraphs, model.signatureDefs = model.subgraphs[:1], model.signatureDefs[:1]
    write_flat(model, tmp_path / "one.tflite")
    with pytest.raises(LengthDependent, match="at least two sequence lengths"):
        write_any_length(tmp_path / "one.tflite", tmp_path / "any.tflite", LENGTHS[-1])


def test_every_precision_answers_and_is_as_small_as_it_says(bert: TfliteModel, ctx: Context) -> None:
    wanted = torch_run(bert.source)(MODEL, _feed(bert, ctx, 11))["logits"]
    sizes = {}
    for name, stage in {
        "dynamic": LitertDynamicInt8(texts=4),
        "weights": LitertWeights(),
        "int4": LitertInt4(texts=4),
        "mixed": LitertMixed(texts=4, kept=0.5),
        "int16": LitertStaticInt8(texts=4, activation_bits=16),
    }.items():
        made = run_stage(stage, bert, ctx)[0]
        found = TfliteRunner(made.path, bert.source.specs).run(MODEL, _feed(bert, ctx, 11))["logits"]
        assert np.abs(found - wanted).max() < (1.0 if name in {"int4", "mixed"} else 0.2), name
        sizes[name] = sum(b.data.nbytes for b in read_flat(made.path).buffers if b.data is not None)
    assert max(sizes.values()) < 0.5 * bert.size_bytes
    assert sizes["int4"] < sizes["mixed"] < sizes["dynamic"]


def test_an_older_runtime_refuses_scales_a_row_by_the_operations_version(bert: TfliteModel, ctx: Context) -> None:
    """It would open the file and compute something else; the quantizer leaves the versions of the float file."""
    small = run_stage(LitertDynamicInt8(texts=4), bert, ctx)[0]
    kept = run_stage(LitertDynamicInt8(texts=4, embeddings=False), bert, ctx)[0]
    found = [min_runtime_version(made.path) for made in (bert, kept, small)]
    assert as_numbers(found[0]) < (2, 17)
    assert found[1:] == ["2.17.0", "2.18.0"]
    versions = [
        {c.builtinCode: c.version for c in read_flat(made.path).operatorCodes if c.builtinCode in BY_ROW}
        for made in (bert, kept, small)
    ]
    assert versions[0][FULLY_CONNECTED] < 12
    assert versions[1][FULLY_CONNECTED] == versions[2][FULLY_CONNECTED] == 12
    assert versions[2][EMBEDDING_LOOKUP] == 4


def test_a_runtime_that_answers_4_bits_otherwise_refuses_them(bert: TfliteModel, ctx: Context) -> None:
    """LiteRT 1.2 opens them at the version that float weights have, and gives other answers; it knows up to 13."""
    made = run_stage(LitertInt4(texts=4), bert, ctx)[0]
    versions = {c.builtinCode: c.version for c in read_flat(made.path).operatorCodes if c.builtinCode in BY_ROW}
    assert versions[FULLY_CONNECTED] == 14
    assert min_runtime_version(made.path) == "2.21.0"
    assert np.isfinite(TfliteRunner(made.path, bert.source.specs).run(MODEL, _feed(bert, ctx, 11))["logits"]).all()


@pytest.mark.parametrize("large", [1, 1 << 30])
def test_no_row_of_a_table_moves_by_more_than_half_a_step(
    bert: TfliteModel, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.tflite.quantize.tables.LARGE", large)
    model = read_flat(bert.path)
    graph = model.subgraphs[0]
    held = next(inputs_of(o)[1] for o in graph.operators if code_of(model, o) == EMBEDDING_LOOKUP)
    before = constant(model, graph.tensors[held])
    assert before is not None
    quantize_tables(model)
    after = constant(model, graph.tensors[held])
    assert after is not None
    steps = np.asarray(graph.tensors[held].quantization.scale)[:, None]
    if large == 1:
        scales = next(t for t in graph.tensors if text(t.name) == f"{text(graph.tensors[held].name)}/scales")
        multiples = constant(model, scales)
        assert multiples is not None
        assert float(multiples.min()) > 0, "a byte that overflows turns a row around"
        steps = steps * multiples.astype(np.float64)
    assert (np.abs(after * steps - before) <= 0.51 * steps).all()


@pytest.mark.slow
def test_a_window_of_neighbours_is_kept_beyond_its_width(tiny: Callable[..., Path], ctx: Context) -> None:
    """ModernBERT's local attention masks nothing in a short text: a trial of few tokens took it for padding alone."""
    source = load_source(str(tiny("modernbert", layers=2, local_attention=20)))
    made, record = run_stage(LowerTflite((6, 30)), source, ctx)
    assert record.facts["max_relative_error"] < FLOAT32_ERROR
    feed = {name: ids[None] for name, ids in filled_rows(source, ctx, 30, 1)[0].inputs.items()}
    found = TfliteRunner(made.path, source.specs).run(MODEL, feed)["logits"]
    np.testing.assert_allclose(found, torch_run(source)(MODEL, feed)["logits"], atol=FLOAT32_ERROR)


@pytest.mark.slow
def test_the_longest_distance_falls_into_a_bucket_that_is_there(tiny: Callable[..., Path], ctx: Context) -> None:
    """DeBERTa's log of the longest is a whole number exactly, by PyTorch's logarithm; by XNNPACK's it is above."""
    source = load_source(str(tiny("deberta-v2", layers=1, position_buckets=32)))
    made = run_stage(LowerTflite((source.max_length,)), source, ctx)[0]
    feed = {name: ids[None] for name, ids in filled_rows(source, ctx, source.max_length, 1)[0].inputs.items()}
    found = TfliteRunner(made.path, source.specs).run(MODEL, feed)["logits"]
    np.testing.assert_allclose(found, torch_run(source)(MODEL, feed)["logits"], atol=1e-5)
