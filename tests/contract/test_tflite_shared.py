"""One graph behind all lengths: every client gets every length in any order, and weights are in memory once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.device.gpu_forecast import forecast_gpu
from converter.errors import RecipeError, StageFailed
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.quantize.litert_dynamic import LitertDynamicInt8
from converter.reference import torch_run
from converter.stage import Context, run_stage
from converter.tflite.file import code_of, read_flat, shared_flat, signature_names, write_flat
from converter.tflite.lengths.rows import filled_rows
from converter.tflite.lengths.shared import SHARED, has_shared_graph, shared_graph, write_shared
from converter.tflite.lengths.stamp import LengthDependent
from converter.tflite.lower.lower import LowerTflite
from converter.tflite.mediapipe.variant import MEDIAPIPE_FILE
from converter.tflite.model import FINE_LENGTHS, TfliteModel, lengths_of
from converter.tflite.runner import TfliteRunner
from targets.tflite import MODEL_FILE, Tflite
from tests.tiny import SENTENCES, make_tokenizer, save_tiny

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

LOWERED, LENGTHS = (8, 20), (4, 8, 13, 20)
UP_AND_DOWN = (4, 20, 4, 8, 8, 13, 4, 20, 13, 8)
"""Back to a length that was used before, longer and shorter: where a graph keeps what it had, this shows it."""
RESHAPE = 22


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(work=tmp_path_factory.mktemp("work"), calibration=tuple(Example(s) for s in SENTENCES))


@pytest.fixture(scope="module")
def bert(tiny: Callable[..., Path], ctx: Context) -> TfliteModel:
    source = load_source(str(tiny("bert", layers=1)))
    return run_stage(LowerTflite(LOWERED), replace(source, max_length=LOWERED[-1]), ctx)[0]


@pytest.fixture(scope="module")
def shared(bert: TfliteModel, ctx: Context) -> Path:
    write_shared(bert.path, ctx.work / "shared.tflite", LENGTHS)
    return ctx.work / "shared.tflite"


def _feed(made: TfliteModel, ctx: Context, length: int) -> dict[str, Any]:
    row = filled_rows(made.source, ctx, LENGTHS[-1], 1)[0]
    return {name: ids[None, :length] for name, ids in row.inputs.items()}


@pytest.mark.parametrize("xnnpack", [True, False])
def test_every_length_answers_whatever_was_asked_before(
    bert: TfliteModel, shared: Path, ctx: Context, *, xnnpack: bool
) -> None:
    runner, wanted = TfliteRunner(shared, bert.source.specs, xnnpack=xnnpack), torch_run(bert.source)
    assert runner.lengths == LENGTHS
    for length in UP_AND_DOWN:
        feed = _feed(bert, ctx, length)
        np.testing.assert_allclose(runner.run(MODEL, feed)["logits"], wanted(MODEL, feed)["logits"], atol=1e-4)


def test_a_constant_that_repeats_for_each_token_follows_the_length(
    tiny: Callable[..., Path], ctx: Context, tmp_path: Path
) -> None:
    """RoBERTa's token types are zeros cut to the length."""
    source = load_source(str(tiny("roberta", layers=1)))
    made = run_stage(LowerTflite(LOWERED), replace(source, max_length=LOWERED[-1]), ctx)[0]
    write_shared(made.path, tmp_path / "roberta.tflite", LENGTHS)
    runner, wanted = TfliteRunner(tmp_path / "roberta.tflite", source.specs), torch_run(source)
    for length in UP_AND_DOWN:
        feed = _feed(made, ctx, length)
        np.testing.assert_allclose(runner.run(MODEL, feed)["logits"], wanted(MODEL, feed)["logits"], atol=1e-4)


def test_the_compiled_model_api_gets_the_same(bert: TfliteModel, shared: Path, ctx: Context) -> None:
    """It gives outputs their place before the run, which tensors that a loop makes do not have."""
    from ai_edge_litert.compiled_model import CompiledModel

    compiled, runner = CompiledModel.from_file(str(shared)), TfliteRunner(shared, bert.source.specs)
    signatures = compiled.get_signature_list()
    for length in UP_AND_DOWN:
        feed, key = _feed(bert, ctx, length), f"serving_{length}"
        number = compiled.get_signature_index(key)
        given, made = compiled.create_input_buffers(number), compiled.create_output_buffers(number)
        for name, buffer in zip(signatures[key]["inputs"], given, strict=True):
            buffer.write(feed[name].astype(np.int32))
        compiled.run_by_index(number, given, made)
        np.testing.assert_array_equal(made[0].read(3, np.float32), runner.run(MODEL, feed)["logits"].ravel())


def test_without_its_last_reshape_the_compiled_model_api_would_refuse_it(shared: Path, tmp_path: Path) -> None:
    from ai_edge_litert.compiled_model import CompiledModel

    model = read_flat(shared)
    for graph in model.subgraphs[: len(LENGTHS)]:
        call, last = graph.operators
        assert code_of(model, last) == RESHAPE
        graph.outputs, graph.operators = np.array([call.outputs[-1]], np.int32), [call]
        for signature in model.signatureDefs:
            signature.outputs[0].tensorIndex = int(call.outputs[-1])
    write_flat(model, tmp_path / "bare.tflite")
    compiled = CompiledModel.from_file(str(tmp_path / "bare.tflite"))
    with pytest.raises(RuntimeError, match="Failed to invoke"):
        compiled.run_by_index(0, compiled.create_input_buffers(0), compiled.create_output_buffers(0))


def test_tables_are_read_once_for_all_who_look_and_again_of_another_file(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(shared.read_bytes())
    assert shared_flat(path) is shared_flat(path)
    changed = read_flat(path)
    assert changed is not shared_flat(path), "what may be changed is nobody else's"
    changed.description = b"another"
    write_flat(changed, tmp_path / "other.tflite")
    (tmp_path / "other.tflite").replace(path)
    assert shared_flat(path).description == b"another"


def test_a_graph_that_hands_on_its_inputs_would_keep_the_length_before(
    bert: TfliteModel, shared: Path, ctx: Context, tmp_path: Path
) -> None:
    """Why the loop hands on one number in their place: the obvious form fails when a length comes back."""
    model = read_flat(shared)
    body = shared_graph(model)
    n_inputs = len(bert.source.input_names)
    inputs = body.inputs[1 : 1 + n_inputs]
    body.outputs = np.array([body.outputs[0], *inputs, *body.outputs[1 + n_inputs :]], np.int32)
    write_flat(model, tmp_path / "handed_on.tflite")
    runner, wanted = TfliteRunner(tmp_path / "handed_on.tflite", bert.source.specs), torch_run(bert.source)
    right = []
    for length in UP_AND_DOWN:
        feed = _feed(bert, ctx, length)
        try:
            right.append(np.allclose(runner.run(MODEL, feed)["logits"], wanted(MODEL, feed)["logits"], atol=1e-4))
        except RuntimeError:
            right.append(False)
            break
    assert not all(right)


def test_the_graph_is_laid_out_once_a_call_behind_a_shape_that_is_no_constant(shared: Path) -> None:
    model = read_flat(shared)
    body = shared_graph(model)
    first, shape = body.operators[0], int(body.inputs[-1])
    assert (code_of(model, first), [int(t) for t in first.inputs]) == (RESHAPE, [int(body.inputs[1]), shape])
    assert model.buffers[body.tensors[shape].buffer].data is None


def test_another_length_costs_a_kilobyte_and_no_weights(bert: TfliteModel, shared: Path, tmp_path: Path) -> None:
    write_shared(bert.path, tmp_path / "two.tflite", LENGTHS[:2])
    more = shared.stat().st_size - (tmp_path / "two.tflite").stat().st_size
    assert more <= 1024 * len(LENGTHS[2:])
    model = read_flat(shared)
    weighty = [
        graph
        for graph in model.subgraphs
        if sum(model.buffers[t.buffer].data.nbytes for t in graph.tensors if model.buffers[t.buffer].data is not None)
        > 1024
    ]
    assert weighty == [shared_graph(model)]


def _emitted(given: TfliteModel, target: Tflite, folder: Path, ctx: Context) -> Path:
    folder.mkdir()
    return target.emit(given, given.source, folder, ctx).folder / MODEL_FILE


def test_precisions_for_cpus_share_a_graph_and_those_for_accelerators_do_not(
    bert: TfliteModel, ctx: Context, tmp_path: Path
) -> None:
    small = run_stage(LitertDynamicInt8(texts=4), bert, ctx)[0]
    made = {
        "auto": _emitted(small, Tflite(mediapipe=False), tmp_path / "a", ctx),
        "float32": _emitted(bert, Tflite(mediapipe=False), tmp_path / "b", ctx),
        "separate": _emitted(small, Tflite(mediapipe=False, graphs="separate"), tmp_path / "c", ctx),
        "batch": _emitted(small, Tflite(mediapipe=False, batch=2), tmp_path / "d", ctx),
        "asked": _emitted(bert, Tflite(mediapipe=False, graphs="shared", seq_len=LOWERED), tmp_path / "e", ctx),
    }
    assert [name for name, path in made.items() if has_shared_graph(path)] == ["auto", "asked"]
    assert lengths_of(signature_names(made["auto"])) == (tuple(n for n in FINE_LENGTHS if n <= LOWERED[-1]), None)
    assert lengths_of(signature_names(made["asked"])) == (LOWERED, None)


def test_the_forecast_for_gpus_names_the_loop_and_the_way_out(bert: TfliteModel, shared: Path) -> None:
    found = forecast_gpu(shared)
    assert (found.partitions, [x.operation for x in found.leaving]) == (0, ["WHILE"])
    assert "graphs=separate" in found.leaving[0].rewrite
    assert found.operations > 20
    assert "WHILE" not in {x.operation for x in forecast_gpu(bert.path).leaving}


def _one_length(given: TfliteModel, path: Path) -> TfliteModel:
    model = read_flat(given.path)
    model.subgraphs, model.signatureDefs = model.subgraphs[:1], model.signatureDefs[:1]
    write_flat(model, path)
    return replace(given, path=path, precision="dynamic")


def test_where_one_graph_cannot_take_all_lengths_each_has_its_own(
    bert: TfliteModel, ctx: Context, tmp_path: Path
) -> None:
    unlike = _one_length(bert, tmp_path / "one.tflite")
    with pytest.raises(LengthDependent):
        write_shared(unlike.path, tmp_path / "no.tflite", LENGTHS)
    assert not has_shared_graph(_emitted(unlike, Tflite(mediapipe=False), tmp_path / "a", ctx))
    with pytest.raises(StageFailed, match="cannot share one graph between all sequence lengths") as caught:
        _emitted(unlike, Tflite(mediapipe=False, graphs="shared"), tmp_path / "b", ctx)
    assert "graphs=shared" in caught.value.hint


@pytest.fixture(scope="module")
def trigrams(tmp_path_factory: pytest.TempPathFactory, ctx: Context) -> TfliteModel:
    """MobileBERT puts each word beside its neighbours: slices whose size hangs on the length, which nothing tells."""
    from transformers import MobileBertConfig

    tokenizer = make_tokenizer("bert")
    config = MobileBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, embedding_size=16, intra_bottleneck_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, num_feedforward_networks=1, max_position_embeddings=32,
    )  # fmt: skip
    folder = save_tiny(tmp_path_factory.mktemp("mobilebert"), config, tokenizer, "text-classification")
    made = run_stage(LowerTflite(LOWERED), load_source(str(folder)), ctx)[0]
    return replace(made, precision="dynamic")


@pytest.mark.slow
def test_a_graph_that_the_runtime_does_not_bring_to_other_lengths_is_not_shipped(
    trigrams: TfliteModel, ctx: Context, tmp_path: Path
) -> None:
    (tmp_path / "auto").mkdir()
    bundle = Tflite().emit(trigrams, trigrams.source, tmp_path / "auto", ctx)
    path = bundle.folder / bundle.files[MODEL]
    assert not has_shared_graph(path)
    assert bundle.left_out.keys() == {SHARED, MEDIAPIPE_FILE}
    assert not (bundle.folder / MEDIAPIPE_FILE).exists()
    feed = {name: ids[None] for name, ids in filled_rows(trigrams.source, ctx, 13, 1)[0].inputs.items()}
    found = TfliteRunner(path, trigrams.source.specs).run(MODEL, feed)["logits"]
    np.testing.assert_allclose(found, torch_run(trigrams.source)(MODEL, feed)["logits"], atol=1e-4)
    for target, word in ((Tflite(any_length=True), "any_length"), (Tflite(graphs="shared"), "graphs=shared")):
        with pytest.raises(StageFailed, match="cannot share one graph between all sequence lengths") as caught:
            _emitted(trigrams, target, tmp_path / word, ctx)
        assert f"leave {word} out" in caught.value.hint


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        (Tflite(graphs="shared", batch=4), "one text per call", "graphs=shared"),
        (Tflite(any_length=True, batch=4), "one text per call", "any_length"),
        (Tflite(any_length=True, graphs="separate"), "one graph with one signature", "any_length, or graphs"),
        (Tflite(graphs="shared", seq_len=(8,)), "no graph to share", "more lengths"),
        (Tflite(any_length=True, seq_len=(4,)), "above 4 tokens, found 4", "longer --seq-len"),
    ],
)
def test_forms_that_exclude_each_other_are_refused_before_any_work(
    tiny: Callable[..., Path], target: Tflite, message: str, hint: str
) -> None:
    source: TorchModel = load_source(str(tiny("bert", layers=1)))
    with pytest.raises(RecipeError, match=message) as caught:
        target.stages("dynamic", {}, source)
    assert hint in caught.value.hint
