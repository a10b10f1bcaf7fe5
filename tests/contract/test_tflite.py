"""What a TFLite package promises: right answers at every length, weights once, and refusals that say why."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.errors import ResourceLimit, RuntimeMissing, StageFailed, UsageError
from converter.examples import Example, pad_batch
from converter.graphs import MODEL, SEQUENCE
from converter.model_folder.load import load_source
from converter.package.stored_sums import sums_of
from converter.quantize.litert_dynamic import LitertDynamicInt8
from converter.quantize.litert_fp16 import LitertFp16
from converter.quantize.litert_static import LitertStaticInt8
from converter.reference import torch_run
from converter.stage import Context, run_stage
from converter.tflite.file import read_flat
from converter.tflite.lengths.rows import filled_rows
from converter.tflite.lower.lower import LowerTflite, check_lowered, computes_constants
from converter.tflite.model import TfliteModel
from converter.tflite.parameters import stored_parameters
from converter.tflite.quantize.ranges import measure
from converter.tflite.runner import TfliteRunner
from converter.validate.vectors import lost_vectors
from targets.tflite import Tflite
from tests.tiny import FAMILIES, SENTENCES

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

LENGTHS = (8, 20)
FLOAT32_ERROR = 1e-4  # of the output range; 2e-7 to 1e-6 was measured on the nine families
DYNAMIC_ERROR = 0.2  # random weights of 32 columns quantize worse than trained ones; a wrong scale is off by far more


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(work=tmp_path_factory.mktemp("work"), calibration=tuple(Example(s) for s in SENTENCES))


@pytest.fixture(scope="module")
def bert(tiny: Callable[..., Path], ctx: Context) -> TfliteModel:
    return _lowered(load_source(str(tiny("bert", layers=1))), ctx, *LENGTHS)


def _lowered(source: TorchModel, ctx: Context, *lengths: int) -> TfliteModel:
    return run_stage(LowerTflite(lengths), source, ctx)[0]


def _error(made: TfliteModel, run: TfliteRunner, ctx: Context) -> float:
    """Worst error over the range of the outputs, on texts that fill a signature and on texts padded to it."""
    wanted_run = torch_run(made.source)
    wanted, found = [], []
    for length in made.lengths:
        for row in filled_rows(made.source, ctx, length, 3):
            for n in (length, length - 3):
                feed = {name: ids[None, :n] for name, ids in row.inputs.items()}
                wanted.append({n: wanted_run(MODEL, feed)[n] for n in made.output_names})
                found.append(run.run(MODEL, feed))
    worst = 0.0
    for name in made.output_names:
        a, b = (np.concatenate([o[name].ravel() for o in outputs]) for outputs in (wanted, found))
        worst = max(worst, float(np.abs(a - b).max() / (a.max() - a.min())))
    return worst


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_in_pytorch_and_in_int8(family: str, tiny: Callable[..., Path], ctx: Context) -> None:
    made = _lowered(load_source(str(tiny(family, layers=1))), ctx, 12)
    assert _error(made, made.open(), ctx) <= FLOAT32_ERROR
    small = run_stage(LitertDynamicInt8(), made, ctx)[0]
    assert small.size_bytes < made.size_bytes
    assert 0 < _error(small, small.open(), ctx) <= DYNAMIC_ERROR


@pytest.mark.parametrize("task", ["token-classification", "question-answering", "fill-mask"])
def test_every_task_keeps_its_outputs(task: str, tiny: Callable[..., Path], ctx: Context) -> None:
    source = load_source(str(tiny("bert", task, layers=1)))
    made = _lowered(source, ctx, 12)
    assert made.output_names == source.specs[MODEL].output_names
    runner = TfliteRunner(made.path, source.specs)
    assert _error(made, runner, ctx) <= FLOAT32_ERROR
    # Every output of these tasks has a length axis, cut to what was fed.
    found = runner.run(MODEL, pad_batch(filled_rows(source, ctx, 7, 2), source.specs[MODEL]))
    assert {value.shape[:2] for value in found.values()} == {(2, 7)}


def test_an_embedding_model_gives_its_embedding_alone(tiny_sentence_transformer: Path, ctx: Context) -> None:
    made = _lowered(load_source(str(tiny_sentence_transformer)), ctx, 12)
    runner = TfliteRunner(made.path, made.source.specs)
    assert [o.name for o in runner.graphs[MODEL].outputs] == ["sentence_embedding"]
    assert _error(made, runner, ctx) <= FLOAT32_ERROR


def test_inputs_are_int32_by_name_and_every_length_is_a_signature(bert: TfliteModel) -> None:
    runner = TfliteRunner(bert.path, bert.source.specs)
    assert [(i.name, i.dtype, i.shape) for i in runner.graphs[MODEL].inputs] == [
        (name, "int32", (1, LENGTHS[0])) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert (runner.lengths, runner.max_length, runner.max_batch) == (LENGTHS, LENGTHS[-1], 1)
    assert "ai-edge-litert" in runner.runtime


def test_a_disk_without_room_is_refused_before_the_library_maps_it(
    tiny: Callable[..., Path], ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes through a mapping: a disk that fills up kills the process, and half a folder stays behind."""
    source, real = load_source(str(tiny("bert", layers=1))), shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=source.size_bytes))
    before = sorted(ctx.work.iterdir())
    with pytest.raises(ResourceLimit, match="MB are needed"):
        LowerTflite(LENGTHS).run(source, ctx)
    assert sorted(ctx.work.iterdir()) == before


def test_signatures_share_their_weights(bert: TfliteModel) -> None:
    contents = [b for b in _buffers(bert.path) if len(b) >= 1024]
    assert contents
    assert len(set(contents)) == len(contents)


def _buffers(path: Path) -> Iterator[bytes]:
    return (b.data.tobytes() for b in read_flat(path).buffers if b.data is not None)


def test_the_longest_signature_is_the_default(bert: TfliteModel) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(bert.path))
    interpreter.allocate_tensors()
    assert {tuple(d["shape"]) for d in interpreter.get_input_details()} == {(1, LENGTHS[-1])}


def test_rows_of_a_batch_and_padding_change_nothing(bert: TfliteModel, ctx: Context) -> None:
    runner = TfliteRunner(bert.path, bert.source.specs)
    rows = filled_rows(bert.source, ctx, 5, 3)
    together = runner.run(MODEL, pad_batch(rows, bert.source.specs[MODEL], {SEQUENCE: 9}))[
        "logits"
    ]  # 9 tokens: the longer signature
    for row, found in zip(rows, together, strict=True):
        alone = runner.run(MODEL, pad_batch([row], bert.source.specs[MODEL]))["logits"][0]
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_a_text_longer_than_the_longest_signature_is_refused(bert: TfliteModel) -> None:
    feed = {name: np.ones((1, 21), dtype=np.int64) for name in bert.source.input_names}
    with pytest.raises(UsageError, match="21 tokens, the file takes at most 20"):
        TfliteRunner(bert.path, bert.source.specs).run(MODEL, feed)


def test_fp16_halves_the_weights_and_moves_little(bert: TfliteModel, ctx: Context) -> None:
    made = run_stage(LitertFp16(), bert, ctx)[0]
    assert 0 < _error(made, TfliteRunner(made.path, bert.source.specs), ctx) < 0.01
    assert _weight_bytes(made.path) < 0.6 * _weight_bytes(bert.path)


def test_dynamic_int8_quarters_the_weights(bert: TfliteModel, ctx: Context) -> None:
    made = run_stage(LitertDynamicInt8(), bert, ctx)[0]
    assert _weight_bytes(made.path) < 0.3 * _weight_bytes(bert.path)
    kept = run_stage(LitertDynamicInt8(embeddings=False), bert, ctx)[0]
    assert _weight_bytes(kept.path) > _weight_bytes(made.path)


def _weight_bytes(path: Path) -> int:
    return sum(len(b) for b in _buffers(path) if len(b) >= 512)


def test_static_int8_fixes_ranges_and_leaves_noisy_layers_dynamic(bert: TfliteModel, ctx: Context) -> None:
    made, record = run_stage(LitertStaticInt8(texts=4, min_snr=0.0), bert, ctx)
    assert record.facts["kept_dynamic"] == 0
    assert 0 < _error(made, TfliteRunner(made.path, bert.source.specs), ctx) < DYNAMIC_ERROR
    assert _operations(made.path)["QUANTIZE"] > 0
    loose, record = run_stage(LitertStaticInt8(texts=4, min_snr=200.0), bert, ctx)
    assert record.facts["kept_dynamic"] == record.facts["layers"] > 0
    assert _operations(loose.path).get("QUANTIZE", 0) == 0


def test_biases_in_whole_numbers_are_found_beside_those_of_the_float_file(bert: TfliteModel, ctx: Context) -> None:
    """They have no sums of their own: what `verify` adds up of a file stays the same."""
    made, _ = run_stage(LitertStaticInt8(texts=4, min_snr=0.0), bert, ctx)
    before = [s for s in stored_parameters(bert.path) if s.kind == "vector"]
    shipped = list(stored_parameters(made.path))
    biases = [s for s in shipped if s.kind == "bias"]
    plain = [s for s in shipped if s.kind == "vector"]
    assert len(list(lost_vectors([s.values for s in plain], before))) >= len(biases) - 1 > 6
    assert not list(lost_vectors([s.values for s in (*plain, *biases)], before))
    assert sums_of(shipped).names == sums_of([s for s in shipped if s.kind != "bias"]).names


def test_static_ranges_are_the_same_at_every_length(bert: TfliteModel, ctx: Context) -> None:
    measured = measure(bert, ctx, 4)[1]
    apart = [[a.high for n, a in measured.items() if n.startswith(f"serving_{length}/")] for length in LENGTHS]
    assert len(apart[0]) == len(apart[1])
    assert apart[0] != apart[1], "they must differ where they are measured, or nothing is proven"
    made = run_stage(LitertStaticInt8(texts=4, min_snr=0.0), bert, ctx)[0]
    graphs = read_flat(made.path).subgraphs
    scales = [[tuple(t.quantization.scale) for t in g.tensors if _is_int8_activation(t)] for g in graphs]
    assert scales[0] == scales[1] != []


def _is_int8_activation(tensor: Any) -> bool:
    from ai_edge_litert.schema_py_generated import TensorType

    return tensor.type == TensorType.INT8 and tensor.buffer == 0 and tensor.quantization is not None


def _operations(path: Path) -> dict[str, int]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator, Model

    names = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
    model = Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    found: dict[str, int] = {}
    for i in range(graph.OperatorsLength()):
        name = names[model.OperatorCodes(graph.Operators(i).OpcodeIndex()).BuiltinCode()]
        found[name] = found.get(name, 0) + 1
    return found


def test_an_operation_without_tflite_form_is_named_with_its_layer(tiny: Callable[..., Path], ctx: Context) -> None:
    import torch

    source = load_source(str(tiny("bert", layers=1)))
    handle = source.module.classifier.register_forward_hook(lambda _m, _i, made: torch.special.bessel_j0(made))
    try:
        with pytest.raises(StageFailed, match=r"bessel_j0.*is not supported in TFLite") as caught:
            _lowered(source, ctx, 8)
    finally:
        handle.remove()
    assert "BertForSequenceClassification" in str(caught.value)
    assert "cpu-int8" in caught.value.hint


def test_a_file_that_answers_otherwise_than_its_model_is_refused(
    bert: TfliteModel, tiny: Callable[..., Path], ctx: Context
) -> None:
    assert check_lowered(bert, ctx)["max_relative_error"] <= FLOAT32_ERROR
    other = load_source(str(tiny("bert", layers=1, seed=1)))
    with pytest.raises(StageFailed, match="differs from PyTorch"):
        check_lowered(replace(bert, source=other), ctx)


def test_a_file_with_other_lengths_or_outputs_breaks_its_specification(bert: TfliteModel) -> None:
    bert.verify()
    with pytest.raises(StageFailed, match="signatures"):
        replace(bert, lengths=(8,)).verify()
    with pytest.raises(StageFailed, match="outputs"):
        replace(bert, output_names=("start_logits",)).verify()


def test_lowering_refers_to_weights_and_folds_none(
    tiny: Callable[..., Path], ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tiny weights would be copied anyway; from here on they count as large.
    monkeypatch.setenv("RESOURCE_CONSTANT_NUMEL_THRESHOLD", "1024")
    monkeypatch.setattr("converter.tflite.lower.lower.LARGE", 512)
    source = load_source(str(tiny("bert", layers=1)))
    made, record = run_stage(LowerTflite((8,)), source, ctx)
    assert record.facts["lean"] is True
    assert not computes_constants(made.path)
    # Without our spelling of normalization and attention the weights are multiplied anew: the usual way takes over.
    monkeypatch.setattr("converter.tflite.lower.graph.REWRITTEN", {})
    made, record = run_stage(LowerTflite((8,)), source, ctx)
    assert record.facts["lean"] is False
    assert not computes_constants(made.path)


@pytest.mark.usefixtures("exported_anew")
def test_the_same_model_gives_the_same_bytes(bert: TfliteModel, ctx: Context) -> None:
    assert run_stage(LowerTflite(LENGTHS), bert.source, ctx)[0].path.read_bytes() == bert.path.read_bytes()


def test_the_package_stands_alone_and_its_readme_code_runs(bert: TfliteModel, ctx: Context, tmp_path: Path) -> None:
    target = Tflite(seq_len=LENGTHS)
    bundle = target.emit(bert, bert.source, tmp_path, ctx)
    bundle.verify()
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(bert.source.task.labels)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))["model_max_length"] == LENGTHS[-1]
    feed = pad_batch(filled_rows(bert.source, ctx, 6, 1), bert.source.specs[MODEL])
    wanted = torch_run(bert.source)(MODEL, feed)["logits"]
    np.testing.assert_allclose(target.open(tmp_path, bert.source.specs).run(MODEL, feed)["logits"], wanted, atol=1e-4)
    code = target.usage(bundle).split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    assert len(done.stdout.strip().strip("[]").split()) == len(bert.source.task.labels)


def test_a_missing_runtime_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Tflite().check_runtime()
    found = importlib.util.find_spec
    gone: Callable[[str], Any] = lambda name: None if name == "litert_torch" else found(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", gone)
    with pytest.raises(RuntimeMissing, match="litert-torch") as caught:
        Tflite().check_runtime()
    assert "plm-export[mobile]" in caught.value.hint
