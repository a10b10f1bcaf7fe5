"""The gate around a whole package: stability, interface, tokenizer, device; each with the package that breaks it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.errors import RuntimeMissing
from converter.examples import Encoding, Example
from converter.graphs import MODEL, CacheFacts
from converter.model_folder.load import load_source
from converter.precision import Limits
from converter.stage import SILENT, Context
from converter.target import DeviceCheck, Runner, TensorInfo
from converter.task import Judged
from converter.validate import stability
from converter.validate.checks import Check, Evaluation, Status
from converter.validate.full_length import check_full_lengths
from converter.validate.interface import dtype_name
from converter.validate.package_check import evaluate_package
from converter.validate.stability import check_stability
from tests.tiny import MAX_LENGTH
from tests.torch_runner import Feed, Outputs, TorchRunner, proof_context, torch_target

Prove = Callable[..., Evaluation]
LIMITS = Limits(agreement=0.98, max_error=1e-3, stability=0.98)


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


@pytest.fixture
def prove(model: TorchModel, tmp_path: Path) -> Prove:
    """Return a function that proves a runner as a package; `spoil` changes the files first."""
    proof = proof_context(model, tmp_path)

    def run(
        runner: Runner,
        *,
        device: DeviceCheck | None = None,
        require_device: bool = False,
        spoil: Callable[[Path], object] | None = None,
        steps: Sequence[tuple[str, TorchModel]] = (),
    ) -> Evaluation:
        folder = tmp_path / "package"
        folder.mkdir()
        target = torch_target(lambda: runner, device)
        bundle = target.emit(model, model, folder, Context(tmp_path))
        if spoil:
            spoil(folder)
        return evaluate_package(target, bundle, model, LIMITS, proof, require_device=require_device, steps=steps)

    return run


def check(evaluation: Evaluation, name: str) -> Check:
    return next(c for c in evaluation.checks if c.name == name)


def test_a_faithful_package_passes_every_check(model: TorchModel, prove: Prove) -> None:
    found = prove(TorchRunner(model))
    assert found.status is Status.PASS, found.checks
    assert {c.status for c in found.checks} == {Status.PASS}
    assert {c.name for c in found.checks} >= {"finite", "agreement", "stability", "inputs", "outputs", "tokenizer"}
    assert found.milliseconds["package"] > 0
    assert found.milliseconds["source"] > 0
    assert 0 < found.facts["size_ratio"] < 1


def test_answers_that_depend_on_the_batch_are_seen(model: TorchModel, prove: Prove) -> None:
    def leak(out: Outputs, feed: Feed) -> Outputs:
        return {"logits": np.roll(out["logits"], 1, axis=-1) if len(out["logits"]) > 1 else out["logits"]}

    found = check(prove(TorchRunner(model, leak)), "stability")
    assert found.status is Status.FAIL
    assert found.value == 0.0
    assert "20 of 20 texts get a different answer in a batch of 8" in found.detail
    assert found.detail.startswith("0 of 16 texts get a different answer when padded"), "enough where nothing moves"


def test_a_mask_that_leaks_is_seen(model: TorchModel, prove: Prove) -> None:
    def leak(out: Outputs, feed: Feed) -> Outputs:
        return {"logits": -out["logits"] if (feed["attention_mask"] == 0).any() else out["logits"]}

    found = check(prove(TorchRunner(model, leak)), "stability")
    assert found.status is Status.FAIL
    assert found.detail.startswith("20 of 20 texts get a different answer when padded")


def test_a_source_that_is_moved_by_padding_itself_is_named(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other precision can help then; where the leak is the package's alone, nothing of the kind is said."""
    source = load_source(str(tiny()))
    proof, forward = proof_context(source, tmp_path), source.module.forward

    def unmasked(attention_mask: torch.Tensor, **given: Any) -> Any:
        return forward(attention_mask=torch.ones_like(attention_mask), **given)

    def leak(out: Outputs, feed: Feed) -> Outputs:
        return {"logits": -out["logits"] if (feed["attention_mask"] == 0).any() else out["logits"]}

    asked = (proof.reference.judged, TorchRunner(source, leak), proof.reference.output_range, LIMITS, SILENT)
    found, _ = check_stability(source, *asked)
    assert found.status is Status.FAIL
    assert "no precision" not in found.detail
    monkeypatch.setattr(source.module, "forward", unmasked)
    found, _ = check_stability(source, *asked)
    assert "the model in PyTorch gives" in found.detail


def test_padding_is_tried_on_the_model_that_was_packed_as_its_ids_may_be_others(
    model: TorchModel, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a trimmed vocabulary, say; and where it does not run, what was measured of the package stays."""
    packed, proof = load_source(str(tiny())), proof_context(model, tmp_path)
    forward = packed.module.forward

    def flip(out: Outputs, feed: Feed) -> Outputs:
        return {"logits": -out["logits"] if (feed["attention_mask"] == 0).any() else out["logits"]}

    def leak(attention_mask: torch.Tensor, **given: Any) -> Any:
        return forward(attention_mask=torch.ones_like(attention_mask), **given)

    def fail(**given: Any) -> Any:
        raise RuntimeError("out of rows")

    (tmp_path / "package").mkdir()
    target = torch_target(lambda: TorchRunner(model, flip))
    bundle = target.emit(packed, packed, tmp_path / "package", Context(tmp_path))
    monkeypatch.setattr(packed.module, "forward", leak)
    found = check(evaluate_package(target, bundle, model, LIMITS, proof, require_device=False), "stability")
    assert found.status is Status.FAIL
    assert "the model in PyTorch gives" in found.detail
    monkeypatch.setattr(packed.module, "forward", fail)
    again, _ = check_stability(
        model, proof.reference.judged, TorchRunner(model, flip), proof.reference.output_range, LIMITS, SILENT, packed
    )
    assert again.status is Status.FAIL
    assert "no precision" not in again.detail


@pytest.mark.parametrize(("moved", "asked"), [(1e-7, False), (1e-2, True)])
def test_all_texts_are_padded_where_padding_moves_anything(
    model: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: float, asked: bool
) -> None:
    def leak(out: Outputs, feed: Feed) -> Outputs:
        return {"logits": out["logits"] * (1 + moved * bool((feed["attention_mask"] == 0).any()))}

    monkeypatch.setattr(stability, "FIRST", 6)
    proof, runner = proof_context(model, tmp_path), TorchRunner(model, leak)
    alone = proof.reference.judged
    _, found = check_stability(model, alone, runner, proof.reference.output_range, LIMITS, SILENT)
    assert (found[0].n_texts == len(alone)) is asked
    assert found[0].n_texts >= 6


def test_nan_in_a_batch_is_another_answer(model: TorchModel, prove: Prove) -> None:
    def spoil(out: Outputs, feed: Feed) -> Outputs:
        return {"logits": out["logits"] * (np.nan if len(out["logits"]) > 1 else 1)}

    assert check(prove(TorchRunner(model, spoil)), "stability").status is Status.FAIL


def test_a_file_with_one_shape_has_no_other_way_to_feed(model: TorchModel, prove: Prove) -> None:
    runner = TorchRunner(model)
    runner.max_batch, runner.lengths = 1, (MAX_LENGTH,)
    assert check(prove(runner), "stability").status is Status.NOT_RUN


def test_fixed_lengths_are_compared_with_the_next_one(model: TorchModel, prove: Prove) -> None:
    seen = []

    def note(out: Outputs, feed: Feed) -> Outputs:
        seen.append(feed["input_ids"].shape)
        return out

    runner = TorchRunner(model, note)
    runner.max_batch, runner.lengths = 1, (16, 32, MAX_LENGTH)
    assert check(prove(runner), "stability").status is Status.PASS
    assert {shape[0] for shape in seen} == {1}
    assert {32, MAX_LENGTH} <= {shape[1] for shape in seen}


def test_a_missing_output_fails_before_anything_is_compared(model: TorchModel, prove: Prove) -> None:
    runner = TorchRunner(model)
    runner.graphs = {MODEL: replace(runner.graphs[MODEL], outputs=(TensorInfo("output_0", "float32", (None, 3)),))}
    found = prove(runner)
    assert found.status is Status.FAIL
    assert "output_0" in check(found, "outputs").detail


@pytest.mark.parametrize(("side", "dtype"), [("inputs", "int32"), ("outputs", "float16")])
def test_another_type_than_callers_use_fails(model: TorchModel, prove: Prove, side: str, dtype: str) -> None:
    runner = TorchRunner(model)
    graph = runner.graphs[MODEL]
    runner.graphs = {MODEL: replace(graph, **{side: tuple(replace(t, dtype=dtype) for t in getattr(graph, side))})}
    found = prove(runner)
    assert check(found, side).status is Status.FAIL
    assert dtype in check(found, side).detail


def test_an_input_that_the_tokenizer_does_not_give_fails(model: TorchModel, prove: Prove) -> None:
    runner = TorchRunner(model)
    graph = runner.graphs[MODEL]
    inputs = (*graph.inputs, TensorInfo("position_ids", "int64", (None, None)))
    runner.graphs = {MODEL: replace(graph, inputs=inputs)}
    assert check(prove(runner), "inputs").status is Status.FAIL


def test_another_tokenizer_in_the_folder_fails(model: TorchModel, prove: Prove) -> None:
    def spoil(folder: Path) -> None:
        path = folder / "tokenizer.json"
        table = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = table["model"]["vocab"]
        vocabulary["the"], vocabulary["a"] = vocabulary["a"], vocabulary["the"]
        path.write_text(json.dumps(table), encoding="utf-8")

    found = check(prove(TorchRunner(model), spoil=spoil), "tokenizer")
    assert found.status is Status.FAIL
    first, other = sorted(("the", "a"), key=model.tokenizer.convert_tokens_to_ids)
    ids = model.tokenizer.convert_tokens_to_ids([other, first])
    assert found.detail == f"{first!r} has the id {ids[0]} in the shipped tokenizer; the source's has {ids[1]}"


def test_a_tokenizer_of_the_same_words_that_splits_texts_otherwise_fails(model: TorchModel, prove: Prove) -> None:
    def spoil(folder: Path) -> None:
        for name, setting in (("tokenizer_config.json", "do_lower_case"), ("tokenizer.json", "lowercase")):
            text = (folder / name).read_text(encoding="utf-8")
            assert f'"{setting}": true' in text
            (folder / name).write_text(text.replace(f'"{setting}": true', f'"{setting}": false'), encoding="utf-8")

    found = check(prove(TorchRunner(model), spoil=spoil), "tokenizer")
    assert found.status is Status.FAIL
    assert "other input_ids" in found.detail


def test_a_tokenizer_that_does_not_load_fails(model: TorchModel, prove: Prove) -> None:
    found = prove(TorchRunner(model), spoil=lambda folder: (folder / "tokenizer.json").write_text("{", "utf-8"))
    assert check(found, "tokenizer").status is Status.FAIL


def _changed(name: str, **values: object) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_changed("tokenizer_config.json", model_max_length=16), "cuts at 16 tokens by itself"),
        (_changed("tokenizer_config.json", padding_side="left"), "padding_side of the shipped tokenizer is left"),
        (
            _changed("config.json", id2label={"0": "class 1", "1": "class 0", "2": "class 2"}),
            "names the classes class 1, class 0, class 2",
        ),
        (
            _changed(
                "tokenizer.json",
                truncation={"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            ),
            "tokenizer.json alone gives other ids",
        ),
    ],
)
def test_what_users_get_without_asking_is_what_was_proven(
    prove: Prove, model: TorchModel, spoil: Callable[[Path], object], said: str
) -> None:
    found = check(prove(TorchRunner(model), spoil=spoil), "as called")
    assert found.status is Status.FAIL
    assert said in found.detail


def test_positions_that_no_text_reaches_are_tried(model: TorchModel, prove: Prove) -> None:
    def spoil(out: Outputs, feed: Feed) -> Outputs:
        return {"logits": -out["logits"] if feed["input_ids"].shape[1] == MAX_LENGTH else out["logits"]}

    found = prove(TorchRunner(model, spoil))
    assert check(found, "full lengths").status is Status.FAIL
    assert check(found, "agreement").status is Status.PASS


@pytest.mark.parametrize(
    ("spreads", "bits", "status"),
    [(0.25, 8, Status.PASS), (1.0, 8, Status.FAIL), (0.25, 32, Status.FAIL), (1.0, 4, Status.FAIL)],
    ids=["rounding", "as much as answers differ", "nothing is rounded", "few bits allow no other answers"],
)
def test_full_lengths_may_be_off_by_what_rounding_costs_there(
    model: TorchModel, tmp_path: Path, spreads: float, bits: int, status: Status
) -> None:
    """Joined texts of a real int8 classifier were off by 0.07 of the range where all others were off by 0.003."""
    reference = proof_context(model, tmp_path).reference
    moved = spreads * np.std([j.outputs["logits"] for j in reference.judged], axis=0)

    def spoil(out: Outputs, feed: Feed) -> Outputs:
        return {"logits": out["logits"] + moved * (feed["input_ids"].shape[1] == MAX_LENGTH)}

    found = check_full_lengths(model, reference, TorchRunner(model, spoil), 0.003, SILENT, None, lambda: bits)
    assert found is not None
    assert found.status is status
    assert (f"rounding it to {bits} bits costs" in found.detail) is (bits < 32)


def test_a_device_that_is_not_there_is_not_run_and_does_not_hide_the_rest(model: TorchModel, prove: Prove) -> None:
    found = prove(TorchRunner(model), device=DeviceCheck(ran=False, detail="there is no GPU"))
    assert check(found, "device").status is Status.NOT_RUN
    assert check(found, "device").detail == "there is no GPU"
    assert found.status is Status.PASS


def test_a_device_that_answers_otherwise_fails_the_package(model: TorchModel, prove: Prove) -> None:
    device = DeviceCheck(ran=True, detail="within 0.5 of the CPU", passed=False)
    found = prove(TorchRunner(model), device=device)
    assert check(found, "device").status is Status.FAIL
    assert found.status is Status.FAIL


def test_a_required_device_that_is_not_there_is_an_error(model: TorchModel, prove: Prove) -> None:
    with pytest.raises(RuntimeMissing, match="there is no GPU"):
        prove(TorchRunner(model), device=DeviceCheck(ran=False, detail="there is no GPU"), require_device=True)


def test_a_device_that_ran_passes(model: TorchModel, prove: Prove) -> None:
    found = prove(TorchRunner(model), device=DeviceCheck(ran=True, detail="on an H100"), require_device=True)
    assert check(found, "device").status is Status.PASS


def test_a_package_that_does_not_run_fails_and_names_the_text(model: TorchModel, prove: Prove) -> None:
    def refuse(out: Outputs, feed: Feed) -> Outputs:
        if feed["input_ids"].shape[1] > 14:
            raise RuntimeError("Reshape: the input cannot be reshaped")
        return out

    found = prove(TorchRunner(model, refuse))
    assert found.status is Status.FAIL
    assert "Reshape" in check(found, "runs").detail


def test_a_package_shorter_than_the_model_is_judged_on_cut_texts(model: TorchModel, prove: Prove) -> None:
    seen = []

    def note(out: Outputs, feed: Feed) -> Outputs:
        seen.append(feed["input_ids"].shape[1])
        return out

    runner = TorchRunner(model, note)
    runner.max_length = 10
    found = prove(runner, spoil=_changed("tokenizer_config.json", model_max_length=10))
    assert found.status is Status.PASS
    assert max(seen) == 10
    assert "truncated to 10" in found.facts["note"]


def test_a_failure_names_the_step_that_drifted(model: TorchModel, prove: Prove) -> None:
    import copy

    import torch

    drifted = replace(model, module=copy.deepcopy(model.module))
    with torch.no_grad():
        for parameter in drifted.module.parameters():
            parameter.mul_(0.5)
    steps = [("copy", model), ("prune.halve", drifted)]
    found = prove(TorchRunner(drifted), steps=steps)
    assert found.status is Status.FAIL
    assert "most of the error comes from prune.halve" in found.reason()
    assert [b["step"] for b in found.facts["boundaries"]] == ["copy", "prune.halve", "package"]
    assert found.facts["boundaries"][0]["max_error"] < 1e-6


def test_a_drift_of_the_last_step_is_the_packages_own(model: TorchModel, prove: Prove) -> None:
    found = prove(TorchRunner(model, lambda out, feed: {"logits": -out["logits"]}), steps=[("copy", model)])
    assert "most of the error comes from the export to the package" in found.reason()


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("tensor(int64)", "int64"), ("tensor(float)", "float32"), ("<class 'numpy.int32'>", "int32"), ("int32", "int32")],
)
def test_types_have_one_name_whatever_the_runtime_calls_them(spelled: str, name: str) -> None:
    assert dtype_name(spelled) == name


def test_a_writer_of_many_words_shares_smaller_batches(model: TorchModel) -> None:
    """Logits of every token of eight texts would take as much memory as the model."""
    ids = np.ones(300, dtype=np.int64)
    one = Judged(Example("a"), Encoding({"input_ids": ids}), {"logits": np.zeros((2, 50_000), dtype=np.float32)})
    writer = replace(model, cache=CacheFacts({}, 50_000, 0, position_ids=False))
    assert stability._most_rows(writer, [one]) == 2
    assert stability._most_rows(writer, [replace(one, outputs={"logits": np.zeros((2, 100))})]) >= stability.BATCH
    assert stability._most_rows(model, [one]) == stability.BATCH
