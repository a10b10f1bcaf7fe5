"""TFLite files of models that write text: a fixed cache equals one that grows, every weight is there once."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.errors import PackageDamaged, ResourceLimit, StageFailed, UsageError
from converter.generate.forcing import forced_logits
from converter.generate.graphs import LOGITS_TO_KEEP
from converter.generate.loop import generate
from converter.generate.modules import torch_graphs_run
from converter.graphs import MODEL
from converter.reference import Reference
from converter.registry import quantizers
from converter.stage import Context
from converter.tflite.file import add_buffer, add_tensor, code_of, inputs_of, read_flat, text, write_flat
from converter.tflite.positions import operation
from converter.tflite.writing.checks import check_encode_lengths, check_fixed_cache
from converter.tflite.writing.layout import plan_layout
from converter.tflite.writing.litertlm import LITERTLM_FILE
from converter.tflite.writing.lower import LowerWriter, check_writer
from converter.tflite.writing.model import TfliteWriter
from converter.tflite.writing.runner import WriterRunner
from converter.tflite.writing.stored_once import check_stored_once
from converter.validate.checks import Status
from tests.contract.phone_writers import PhoneWriter
from tests.fixed_caches import torch_model
from tests.manifests import forge
from tests.tiny_text import (
    batch_for,
    continue_in_transformers,
    make_text_model,
    prompts,
    save_causal,
    save_marian,
    settings_of,
)

CAUSAL, TRANSLATES = "qwen2", "marian"
"""Rotary positions, shared key/value heads and a tied table; and two stacks."""
CACHE = {CAUSAL: 40, TRANSLATES: 24}
LENGTHS = {CAUSAL: (4, 16), TRANSLATES: (6, 16)}


@dataclass
class Lowered:
    """A tiny model and its float32 file; do not write into it."""

    model: Any
    source: TorchModel
    made: TfliteWriter

    @property
    def runner(self) -> WriterRunner:
        return self.made.open_writer(xnnpack=True)

    def settings(self, **more: Any) -> Any:
        return settings_of(self.model, **({"max_new_tokens": 10} | more))

    def reference(self) -> Reference:
        """Return texts with an answer each: all that the checks of a file ask of a reference."""
        from types import SimpleNamespace

        from converter.examples import Encoding

        rows = [np.array(p) for p in prompts(4, seed=3)]
        answer = np.arange(5, 13)
        lengths = {"sequence": 8}
        judged = tuple(
            SimpleNamespace(
                encoding=Encoding({"input_ids": r}, answer=answer, lengths={**lengths, "encoder_sequence": len(r)})
            )
            for r in rows
        )
        made: Any = SimpleNamespace(judged=judged, output_range={"logits": 30.0})
        return made


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Lowered]:
    known: dict[str, Lowered] = {}

    def make(family: str) -> Lowered:
        if family not in known:
            model = make_text_model(family)
            source = torch_model(model)
            stage = LowerWriter(CACHE[family], LENGTHS[family])
            made = stage.run(source, Context(work=tmp_path_factory.mktemp(family))).made
            made.verify()
            known[family] = Lowered(model, source, made)
        return known[family]

    return make


@pytest.mark.parametrize("family", [CAUSAL, TRANSLATES])
def test_a_fixed_cache_writes_what_transformers_writes(family: str, lowered: Callable[[str], Lowered]) -> None:
    tiny = lowered(family)
    runner, settings = tiny.runner, tiny.settings()
    texts = prompts(12, longest=16)
    for prompt in texts:
        feed = batch_for(tiny.model, [prompt])
        found = generate(runner.run, tiny.source.specs, feed, settings).sequences
        assert np.array_equal(found, continue_in_transformers(tiny.model, feed, max_new_tokens=10))
    feed = batch_for(tiny.model, texts[:4])
    found = generate(runner.run, tiny.source.specs, feed, settings).sequences
    assert np.array_equal(found, continue_in_transformers(tiny.model, feed, max_new_tokens=10))
    # Rows are reordered between steps; that the loop searches as transformers does has a test of its own.
    beams = replace(settings, beams=3)
    wanted = generate(torch_graphs_run(tiny.model), tiny.source.specs, feed, beams).sequences
    assert np.array_equal(generate(runner.run, tiny.source.specs, feed, beams).sequences, wanted)


def test_a_causal_model_writes_to_the_last_position_of_its_cache(lowered: Callable[[str], Lowered]) -> None:
    tiny = lowered(CAUSAL)
    feed = batch_for(tiny.model, [prompts(3)[2]])
    length = feed["input_ids"].shape[1]
    wanted = continue_in_transformers(
        tiny.model, feed, max_new_tokens=CACHE[CAUSAL] + 1 - length, min_new_tokens=CACHE[CAUSAL] + 1 - length
    )
    settings = tiny.settings(max_new_tokens=None, max_length=CACHE[CAUSAL] + 1, min_length=CACHE[CAUSAL] + 1)
    found = generate(tiny.runner.run, tiny.source.specs, feed, settings).sequences
    assert found.shape[1] == CACHE[CAUSAL] + 1  # the last token is never fed back
    assert np.array_equal(found, wanted)


def test_what_exceeds_the_cache_is_refused_by_name(lowered: Callable[[str], Lowered]) -> None:
    tiny = lowered(CAUSAL)
    feed = batch_for(tiny.model, [list(range(5, 5 + CACHE[CAUSAL] + 1))])
    with pytest.raises(UsageError, match="cache has 40 positions"):
        generate(tiny.runner.run, tiny.source.specs, feed, tiny.settings())
    pair = lowered(TRANSLATES)
    feed = batch_for(pair.model, [list(range(5, 5 + 25))])
    with pytest.raises(UsageError, match="takes at most 24"):
        generate(pair.runner.run, pair.source.specs, feed, pair.settings())


@pytest.mark.parametrize(
    ("causal", "wanted", "lengths", "said"),
    [(True, 97, (), "exceeds the model's 96"), (True, 8, (16,), "exceeds the cache's 8"), (False, 0, (97,), "model's")],
)
def test_a_layout_beyond_the_positions_is_refused_before_any_work(
    causal: bool,
    wanted: int,
    lengths: tuple[int, ...],
    said: str,
    lowered: Callable[[str], Lowered],
) -> None:
    facts = lowered(CAUSAL if causal else TRANSLATES).source.cache
    assert facts is not None
    with pytest.raises(UsageError, match=said):
        plan_layout(facts, causal=causal, positions=96, wanted=wanted, lengths=lengths)
    usual = plan_layout(facts, causal=causal, positions=96, wanted=0, lengths=())
    assert (usual.cache, usual.layers) == (96, 2)


def test_a_call_keeps_nothing_and_computes_the_logits_that_are_asked_for(lowered: Callable[[str], Lowered]) -> None:
    tiny = lowered(CAUSAL)
    run, specs = tiny.runner.run, tiny.source.specs
    ids = np.array([prompts(4)[3][:6]])
    empty = {
        t.name: np.zeros((1, t.axes[1], 0, t.axes[3]), np.float32) for t in specs[MODEL].inputs if "past" in t.name
    }
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), **empty}
    whole = run(MODEL, feed)
    some = run(MODEL, feed | {LOGITS_TO_KEEP: np.array([2])})
    assert whole["logits"].shape[1], some["logits"].shape[1] == (6, 2)
    assert np.allclose(whole["logits"][:, -2:], some["logits"], atol=1e-4)
    past = {n.replace("present", "past_key_values"): v for n, v in whole.items() if n != "logits"}
    after = {"attention_mask": np.ones((1, 7), np.int64), **past}
    first, *_, again = [run(MODEL, {"input_ids": np.array([[t]]), **after})["logits"] for t in (9, 50, 9)]
    assert np.array_equal(first, again)


def test_a_runner_tells_which_part_of_litert_answers(lowered: Callable[[str], Lowered]) -> None:
    from converter.tflite.runner import runtime_name

    made = lowered(CAUSAL).made
    names = [made.open_writer(xnnpack=xnnpack).runtime for xnnpack in (True, False)]
    assert len({*names, runtime_name(xnnpack=True)}) == 3, "packages that its Interpreter sealed are another class"


@pytest.mark.parametrize("family", [CAUSAL, TRANSLATES])
def test_every_weight_is_in_the_file_once_and_twice_is_seen(
    family: str, lowered: Callable[[str], Lowered], tmp_path: Path
) -> None:
    tiny = lowered(family)
    assert check_stored_once(tiny.made.path).status is Status.PASS
    model = read_flat(tiny.made.path)
    weight = max((t for g in model.subgraphs for t in g.tensors), key=lambda t: len(_bytes(model, t)))
    values = _bytes(model, weight).view(np.float32).reshape([int(n) for n in weight.shape])
    graph = model.subgraphs[0]
    turned = add_tensor(graph, "twice", values.T.shape, 0, add_buffer(model, np.ascontiguousarray(values.T)))
    graph.operators.append(operation(model, 0, [turned, turned], add_tensor(graph, "sum", values.T.shape, 0)))
    write_flat(model, tmp_path / "twice.tflite")
    assert check_stored_once(tmp_path / "twice.tflite").status is Status.FAIL


def _bytes(model: Any, tensor: Any) -> Any:
    from converter.tflite.file import bytes_of

    return bytes_of(model, tensor.buffer)


@pytest.mark.parametrize("family", [CAUSAL, TRANSLATES])
def test_int8_keeps_a_tied_table_once_and_answers_alike(
    family: str, lowered: Callable[[str], Lowered], tmp_path: Path
) -> None:
    tiny = lowered(family)
    dynamic: Any = quantizers("tflite")["dynamic"]
    outcome = dynamic(texts=0, smooth=0.0).run(tiny.made, Context(work=tmp_path))
    made = outcome.made
    made.verify()
    assert outcome.facts["tied_tables"] == 1
    assert check_stored_once(made.path).status is Status.PASS
    assert made.size_bytes < 0.75 * tiny.made.size_bytes
    assert error_of(tiny, made) < 0.05


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 1e-3), ("weights", 0.02), ("int4", 0.1)])
def test_other_precisions_answer_within_their_noise(
    precision: str, limit: float, lowered: Callable[[str], Lowered], tmp_path: Path
) -> None:
    tiny = lowered(CAUSAL)
    stage: Any = quantizers("tflite")[precision]()
    made = stage.run(tiny.made, Context(work=tmp_path)).made
    assert made.size_bytes < tiny.made.size_bytes
    assert check_stored_once(made.path).status is Status.PASS
    assert error_of(tiny, made) < limit


def error_of(tiny: Lowered, made: TfliteWriter) -> float:
    """Return the mean error of a file on one text, over the range of the logits."""
    feed = batch_for(tiny.model, [prompts(3, longest=12)[1]])
    answer = np.arange(5, 13)[None] if tiny.model.config.is_encoder_decoder else None
    runs = (made.open_writer(xnnpack=True).run, torch_graphs_run(tiny.model))
    found, wanted = (forced_logits(run, tiny.source.specs, feed, answer) for run in runs)
    return float(np.abs(found - wanted).mean() / np.ptp(wanted))


def test_an_option_of_encoders_or_a_longer_cache_is_refused_before_any_work(tmp_path: Path) -> None:
    from converter.api import convert

    wanted = {"model": str(save_causal(tmp_path / "model")), "targets": ["tflite"], "quantize": {"tflite": "none"}}
    for options, said in (({"cache": 97}, "exceeds the model's 96"), ({"graphs": "shared"}, "has no option graphs")):
        with pytest.raises(UsageError, match=said):
            convert({**wanted, "target": {"tflite": options}}, tmp_path / "refused")


def test_a_mixture_of_experts_is_refused_by_name_before_any_work(tmp_path: Path) -> None:
    from converter.api import convert

    model = save_causal(tmp_path / "model", "qwen2_moe")
    with pytest.raises(UsageError, match=r"tflite: the model is a mixture of experts \(Qwen2MoeExperts\)"):
        convert({"model": str(model), "targets": ["tflite"]}, tmp_path / "refused")


def test_a_package_writes_is_verified_and_has_a_bundle_with_the_same_file(
    phone_writer: Callable[[str], PhoneWriter], tmp_path: Path
) -> None:
    from converter.api import verify
    from converter.package.answer import open_for_answers

    whole = phone_writer("gpt2")
    assert whole.outcome.status is Status.PASS, whole.outcome.error
    checks = {c.name: c.status for c in whole.outcome.evaluation.checks}
    named = ("generation", "fixed cache", "stored once", "litert-lm", "weights", "embedding tables")
    assert {n: checks[n] for n in named} == dict.fromkeys(named, Status.PASS)
    package = Path(shutil.copytree(whole.package, tmp_path / "tflite"))
    assert verify(package)["golden_texts"]
    opened = open_for_answers(package)
    assert opened.write("the cat", opened.settings({"max_new_tokens": 4}), lambda _: None)
    with pytest.raises(UsageError, match="leaves no room"):
        opened.write("the cat " * 60, opened.settings({}), lambda _: None)
    assert as_the_readme_shows(package) == greedy(whole.model, "Good morning", 21)
    (package / LITERTLM_FILE).unlink()
    forge(package)
    with pytest.raises(PackageDamaged, match=r"model.litertlm is missing"):
        verify(package)


def test_a_pruned_translator_is_held_to_what_its_file_was_made_of(tmp_path: Path) -> None:
    from converter.api import convert

    folder = save_marian(tmp_path / "model")
    table = {
        "model": str(folder),
        "targets": ["tflite"],
        "quantize": {"tflite": "none"},
        "target": {"tflite": {"cache": 16}},
        "compress": [{"stage": "prune.layers", "decoder": 1}],
    }
    (made,) = convert(table, tmp_path / "out").targets
    assert made.evaluation is not None, made.error
    checks = {c.name: c for c in made.evaluation.checks}
    assert checks["full lengths"].status is Status.PASS, "not to the source, which has another cache"
    assert "16" in checks["full lengths"].detail


def as_the_readme_shows(package: Path) -> str:
    """Run the code of a package's README in its folder; returns what it prints."""
    (shown,) = re.findall(r"```python\n(.*?)```", (package / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", shown], cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.removesuffix("\n")


def greedy(folder: Path, text: str, steps: int) -> str:
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    feed = {n: np.array([row]) for n, row in tokenizer(text).items() if n != "token_type_ids"}
    return str(tokenizer.decode(continue_in_transformers(model, feed, max_new_tokens=steps)[0]))


# What a file does wrong must be seen: positions off by one, a length that reads its mask otherwise, another layout.


def test_a_position_off_by_one_in_one_signature_is_seen(lowered: Callable[[str], Lowered], tmp_path: Path) -> None:
    tiny = lowered(CAUSAL)
    assert check_fixed_cache(tiny.source, tiny.reference(), tiny.runner).status is Status.PASS
    path = planted(tiny.made.path, tmp_path, "prefill_16", "input_pos", write_one_later)
    runner = WriterRunner(path, tiny.source.specs)
    check = check_fixed_cache(tiny.source, tiny.reference(), runner)
    assert check.status is Status.FAIL, check.detail
    with pytest.raises(StageFailed, match="differs from PyTorch"):
        check_writer(tiny.model, tiny.source.specs, runner.run, tiny.made.layout)


def test_a_length_that_sees_its_padding_otherwise_is_seen(lowered: Callable[[str], Lowered], tmp_path: Path) -> None:
    tiny = lowered(TRANSLATES)
    assert check_encode_lengths(tiny.source, tiny.reference(), tiny.runner).status is Status.PASS
    path = planted(tiny.made.path, tmp_path, "encode_16", "tokens", write_one_later)  # other tokens are read
    check = check_encode_lengths(tiny.source, tiny.reference(), WriterRunner(path, tiny.source.specs))
    assert check.status is Status.FAIL, check.detail
    assert "16" in check.detail


def test_a_file_of_another_layout_is_refused(lowered: Callable[[str], Lowered], tmp_path: Path) -> None:
    tiny = lowered(CAUSAL)
    model = read_flat(tiny.made.path)
    for signature in model.signatureDefs:
        if text(signature.signatureKey) == "decode":
            signature.inputs = [e for e in signature.inputs if text(e.name) != "mask"]
    write_flat(model, tmp_path / "model.tflite")
    with pytest.raises(PackageDamaged, match="decode takes mask as nothing"):
        WriterRunner(tmp_path / "model.tflite", tiny.source.specs)
    with pytest.raises(PackageDamaged, match="no signatures encode_"):
        WriterRunner(tiny.made.path, lowered(TRANSLATES).source.specs)


def test_an_operation_without_tflite_form_is_named_with_its_layer(tmp_path: Path) -> None:
    import torch

    source = torch_model(make_text_model("gpt2", n_layer=1))
    handle = source.module.transformer.h[0].mlp.register_forward_hook(
        lambda _m, _i, made: torch.special.bessel_j0(made)
    )
    try:
        with pytest.raises(StageFailed, match=r"bessel_j0.*is not supported in TFLite") as caught:
            LowerWriter(16, (4,)).run(source, Context(work=tmp_path))
    finally:
        handle.remove()
    assert "GPT2LMHeadModel" in str(caught.value)
    assert "cpu-int8" in caught.value.hint


def test_a_disk_without_room_for_the_weights_is_refused_before_work(
    lowered: Callable[[str], Lowered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, real = lowered(CAUSAL).source, shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=source.size_bytes))
    with pytest.raises(ResourceLimit, match="MB are needed"):
        LowerWriter(16, (4,)).run(source, Context(work=tmp_path))
    assert not list(tmp_path.iterdir())


def planted(path: Path, folder: Path, signature: str, name: str, fault: Callable[[Any, Any, int], None]) -> Path:
    """Return a copy of a file in which `fault` was put behind an input of a signature."""
    copy = Path(shutil.copy(path, folder / "original.tflite"))
    model = read_flat(copy)
    found = next(s for s in model.signatureDefs if text(s.signatureKey) == signature)
    number = next(int(e.tensorIndex) for e in found.inputs if text(e.name) == name)
    fault(model, model.subgraphs[found.subgraphIndex], number)
    write_flat(model, folder / "planted.tflite")
    return folder / "planted.tflite"


def write_one_later(model: Any, graph: Any, number: int) -> None:
    """Let all that reads a tensor of whole numbers read them plus one."""
    from ai_edge_litert.schema_py_generated import AddOptionsT, BuiltinOperator, BuiltinOptions, TensorType

    given = graph.tensors[number]
    one = add_tensor(graph, "planted/one", (), TensorType.INT32, add_buffer(model, np.array(1, np.int32)))
    made = add_tensor(graph, "planted/later", [int(n) for n in given.shape], TensorType.INT32)
    for op in graph.operators:
        op.inputs = np.array([made if t == number else t for t in inputs_of(op)], np.int32)
    added = operation(model, BuiltinOperator.ADD, [number, one], made, (BuiltinOptions.AddOptions, AddOptionsT()))
    assert code_of(model, added) == BuiltinOperator.ADD
    graph.operators.insert(0, added)
