"""Models that write text, from a folder to a sealed package: what is proven, what is refused, what must be seen."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.api import convert, verify
from converter.artifact import Bundle, TorchModel
from converter.errors import ExportError, PackageDamaged, SourceError, UsageError
from converter.package.manifest import model_files, read_manifest
from converter.reference import Reference
from converter.stage import SILENT
from converter.validate.checks import Check, Status
from tests.tiny_text import save_causal, save_marian

CAUSAL, TRANSLATES = "gpt2", "marian"
MAKERS = {CAUSAL: save_causal, TRANSLATES: save_marian}


@dataclass
class Made:
    """A tiny model and its package, made by `convert`; do not write into either."""

    folder: Path
    package: Path
    checks: dict[str, Check]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    known: dict[str, Made] = {}

    def make(kind: str) -> Made:
        if kind not in known:
            folder = MAKERS[kind](tmp_path_factory.mktemp(kind) / "model")
            out = tmp_path_factory.mktemp(f"{kind}-out") / "out"
            # Nobody names a precision: the default is the one that these models can have.
            (target,) = convert({"model": str(folder), "targets": ["cpu-int8"]}, out).targets
            assert target.evaluation is not None, target.error
            checks = {c.name: c for c in target.evaluation.checks}
            assert target.status is Status.PASS, target.error
            known[kind] = Made(folder, out / "cpu-int8", checks)
        return known[kind]

    return make


@dataclass
class Proof:
    """What packages of one tiny model are judged by."""

    source: TorchModel
    reference: Reference

    def of(self, folder: Path) -> dict[str, Check]:
        from converter.precision import Limits
        from converter.validate.owner import OwnerVerdict
        from converter.validate.package_check import evaluate_package
        from converter.validate.proof import ProofContext
        from targets.cpu_int8 import CpuInt8

        bundle = Bundle(folder, model_files(read_manifest(folder)), self.source)
        owner = OwnerVerdict(Check("owner's library", Status.PASS))
        context = ProofContext(folder, self.reference, owner)
        limits = Limits(max_error=1e-4, agreement=0.999, stability=0.999)
        made = evaluate_package(CpuInt8(), bundle, self.source, limits, context, require_device=False)
        return {c.name: c for c in made.checks}


def proof_of(folder: Path, texts: int = 16) -> Proof:
    from converter.data.probes import builtin_examples, choose_probes
    from converter.model_folder.load import load_source
    from converter.reference import capture_reference

    source = load_source(str(folder))
    return Proof(source, capture_reference(source, choose_probes((), builtin_examples(source), texts), SILENT))


@pytest.fixture(scope="module")
def proof(made: Callable[[str], Made]) -> Proof:
    return proof_of(made(CAUSAL).folder)


@pytest.fixture(scope="module")
def translator_proof(made: Callable[[str], Made], tmp_path_factory: pytest.TempPathFactory) -> Proof:
    short = tmp_path_factory.mktemp("short") / "model"
    return proof_of(short_answers(Path(shutil.copytree(made(TRANSLATES).folder, short))), 6)


@pytest.fixture
def translator_package(made: Callable[[str], Made], tmp_path: Path) -> Path:
    """A copy of the translator's package that a test may damage."""
    return short_answers(Path(shutil.copytree(made(TRANSLATES).package, tmp_path / "package")))


def short_answers(folder: Path) -> Path:
    """A model that was taught nothing seldom stops: let it stop after twelve tokens."""
    return with_settings(folder, {"max_new_tokens": 12})


def with_settings(folder: Path, more: dict[str, Any]) -> Path:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


@pytest.fixture
def package(made: Callable[[str], Made], tmp_path: Path) -> Path:
    """A copy of the GPT-2's package that a test may damage."""
    return Path(shutil.copytree(made(CAUSAL).package, tmp_path / "package"))


@pytest.mark.parametrize("kind", [CAUSAL, TRANSLATES])
def test_a_model_that_writes_text_is_proven_step_by_step_and_running_free(
    kind: str, made: Callable[[str], Made]
) -> None:
    checks = made(kind).checks
    decided = ("max_error", "agreement", "stability", "generation", "stops", "perplexity", "cache", "tokenizer")
    assert {n: checks[n].status for n in decided} == dict.fromkeys(decided, Status.PASS)
    assert "generate" in checks["owner's library"].detail
    assert checks["owner's library"].status is Status.PASS


@pytest.mark.parametrize(
    ("kind", "graphs", "task"),
    [
        (CAUSAL, ["onnx/model.onnx"], "text-generation"),
        (TRANSLATES, ["onnx/decoder_model_merged.onnx", "onnx/encoder_model.onnx"], "translation"),
    ],
)
def test_a_package_has_the_files_that_clients_look_for(
    kind: str, graphs: list[str], task: str, made: Callable[[str], Made]
) -> None:
    folder = made(kind).package
    assert sorted(p.relative_to(folder).as_posix() for p in folder.glob("onnx/*")) == graphs
    manifest = read_manifest(folder)
    assert (manifest["task"], manifest["precision"]) == (task, "none")
    own = json.loads((folder / "generation_config.json").read_text())
    assert "eos_token_id" in own
    assert "pad_token_id" in own
    assert (folder / "tokenizer.json").is_file()
    side = json.loads((folder / "tokenizer_config.json").read_text())["padding_side"]
    assert side == ("left" if kind == CAUSAL else "right")


@pytest.mark.parametrize("kind", [CAUSAL, TRANSLATES])
def test_verify_lets_the_package_write_again(kind: str, made: Callable[[str], Made]) -> None:
    found = verify(made(kind).package)
    assert found["golden_texts"] >= 8
    assert found["same_answers"] == found["golden_texts"]


def test_verify_sees_that_a_package_writes_otherwise_than_when_it_was_sealed(made: Callable[[str], Made]) -> None:
    from converter.package.answer import open_for_answers
    from converter.package.golden import ANSWER, WRITTEN, read_golden, replay

    folder = made(CAUSAL).package
    opened, golden = open_for_answers(folder), read_golden(folder)
    task: Any = opened.task
    encodings = [
        task.with_answer(task.encode(opened.tokenizer, e, opened.max_length), ids[ANSWER])
        for e, ids in zip(golden.examples, golden.ids, strict=True)
    ]
    other = replace(golden, ids=tuple(ids | {WRITTEN: ids[WRITTEN][::-1]} for ids in golden.ids))
    assert replay(golden, task, encodings, opened.runner, opened.specs, 1e-4).n_texts == len(encodings)
    with pytest.raises(PackageDamaged, match="where it wrote"):
        replay(other, task, encodings, opened.runner, opened.specs, 1e-4)


# What silently goes wrong elsewhere, planted into a package: the gate must see it.


def edited(folder: Path, name: str = "model") -> Iterator[Any]:
    import onnx

    path = folder / "onnx" / f"{name}.onnx"
    model = onnx.load(path)
    yield model
    onnx.save(model, path)


def read_through(model: Any, name: str, op: str, constant: int) -> None:
    """Let all that reads the input `name` read `op(name, constant)` instead."""
    import onnx

    for node in model.graph.node:
        node.input[:] = [f"{name}.planted" if n == name else n for n in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(constant, dtype=np.int64), "planted"))
    model.graph.node.insert(0, onnx.helper.make_node(op, [name, "planted"], [f"{name}.planted"]))


def positions_off_by_one(folder: Path) -> None:
    for model in edited(folder):
        read_through(model, "position_ids", "Add", 1)


def padding_not_masked(folder: Path) -> None:
    for model in edited(folder):
        read_through(model, "attention_mask", "Max", 1)


def keys_before_values(folder: Path) -> None:
    pair = {"present.0.key": "present.0.value", "present.0.value": "present.0.key"}
    for model in edited(folder):
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [pair.get(n, n) for n in names]


def replaced_output(model: Any, name: str, nodes: list[tuple[str, list[str], str]], constants: dict[str, Any]) -> None:
    """Let `nodes` (operation, inputs, output) make the output `name` of what made it, which they read as `own`."""
    import onnx

    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}.own" if n == name else n for n in names]
    for constant, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), f"{name}.{constant}"))
    for op, inputs, output in nodes:
        own = [f"{name}.{i}" for i in inputs]
        model.graph.node.append(onnx.helper.make_node(op, own, [f"{name}.{output}" if output else name]))


def cache_cut(folder: Path) -> None:
    """Positions of the cache past the twelfth are forgotten."""
    length = [("Shape", ["own"], "shape"), ("Gather", ["shape", "two"], "length")]
    kept = [("Range", ["zero", "length", "one"], "places"), ("Less", ["places", "limit"], "within")]
    cast = [("Where", ["within", "keep", "drop"], "flat"), ("Unsqueeze", ["flat", "last"], "mask")]
    for model in edited(folder):
        for name in [o.name for o in model.graph.output if o.name.startswith("present")]:
            replaced_output(
                model,
                name,
                [*length, *kept, *cast, ("Mul", ["own", "mask"], "")],
                {"two": 2, "zero": 0, "one": 1, "limit": 12, "last": np.array([1]), "keep": np.float32(1)}
                | {"drop": np.float32(0)},
            )


def tied_table_doubled(folder: Path) -> None:
    """The output layer gets a turned copy of the table of its own, as constant folding makes it."""
    import onnx

    for model in edited(folder):
        (turned,) = (n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in tables_of(model))
        table = onnx.numpy_helper.to_array(tables_of(model)[turned.input[0]])
        model.graph.initializer.append(onnx.numpy_helper.from_array(table.T.copy(), turned.output[0]))
        model.graph.node.remove(turned)


def tables_of(model: Any) -> dict[str, Any]:
    return {i.name: i for i in model.graph.initializer if len(i.dims) == 2}


def cross_keys_updated_twice(folder: Path) -> None:
    """Every step writes the cross keys anew, of what it had written before."""
    for model in edited(folder, "decoder_model_merged"):
        for name in [o.name for o in model.graph.output if ".encoder.key" in o.name]:
            replaced_output(model, name, [("Add", ["own", "own"], "")], {})


def a_stop_token_ignored(folder: Path) -> None:
    path = folder / "generation_config.json"
    table = json.loads(path.read_text())
    del table["eos_token_id"]
    path.write_text(json.dumps(table))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        (positions_off_by_one, {"max_error", "agreement", "generation"}),
        (padding_not_masked, {"stability"}),
        (keys_before_values, {"max_error", "agreement", "generation"}),
        (a_stop_token_ignored, {"generation", "stops"}),
        (cache_cut, {"max_error", "agreement", "generation", "cache"}),
        (tied_table_doubled, {"stored once"}),
    ],
)
def test_a_fault_that_is_planted_into_a_package_fails_its_gate(
    plant: Callable[[Path], None], seen: set[str], package: Path, proof: Proof
) -> None:
    plant(package)
    failed = {name for name, check in proof.of(package).items() if check.status is Status.FAIL}
    assert seen <= failed


def test_cross_attention_that_is_updated_twice_fails_the_gate(
    translator_package: Path, translator_proof: Proof
) -> None:
    cross_keys_updated_twice(translator_package)
    checks = translator_proof.of(translator_package)
    failed = {name for name, check in checks.items() if check.status is Status.FAIL}
    assert {"max_error", "generation", "cache"} <= failed
    assert "fed token by token" in checks["cache"].detail


def test_a_forced_language_token_that_is_dropped_fails_the_gate(
    made: Callable[[str], Made], translator_package: Path, tmp_path: Path
) -> None:
    """The graphs are the same: what the first token must be stands in generation_config.json alone."""
    folder = Path(shutil.copytree(made(TRANSLATES).folder, tmp_path / "model"))
    for one in (folder, translator_package):
        with_settings(one, {"forced_bos_token_id": 7})
    proof = proof_of(folder, 6)
    assert {j.encoding.answer[0] for j in proof.reference.judged if j.encoding.answer is not None} == {7}
    assert proof.of(translator_package)["generation"].status is Status.PASS
    path = translator_package / "generation_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if "forced_bos" not in k}))
    assert proof.of(translator_package)["generation"].status is Status.FAIL


# What is scored by references.


def labelled(proof: Proof, wanted: Callable[[str, str], str]) -> list[Any]:
    """Return texts with what the source writes about each as its reference, changed by `wanted(text, written)`."""
    from converter.examples import Example, References
    from converter.reference import torch_run

    task: Any = proof.source.task
    run, specs, made = torch_run(proof.source), proof.source.specs, []
    for one in proof.reference.judged[:6]:
        given = Example(one.example.text, label=References((one.example.text,) * 2))
        written = task.read_written(task.scored_outputs(specs, run, given, one.encoding)["written"].tolist())
        made.append(replace(given, label=References((wanted(one.example.text, written),))))
    return made


def scored(proof: Proof, examples: list[Any]) -> Proof:
    from converter.reference import capture_reference

    probes = [j.example for j in proof.reference.judged[:4]]
    return Proof(proof.source, capture_reference(proof.source, probes, SILENT, examples))


def test_a_translator_is_scored_by_what_it_writes_and_so_is_its_package(
    translator_package: Path, translator_proof: Proof
) -> None:
    judged = scored(translator_proof, labelled(translator_proof, lambda text, written: written))
    assert list(judged.reference.metric)[:2] == ["bleu", "chrf"]
    assert judged.reference.metric["exact_match"] == 1
    assert judged.reference.metric["bleu"] > 0.95
    assert any("sacrebleu" in note for note in judged.reference.notes)
    assert of_metric(judged, translator_package).status is Status.PASS


def of_metric(proof: Proof, package: Path) -> Check:
    from converter.onnx.runner import OnnxRunner
    from converter.precision import Limits
    from converter.validate.compare import compare_answers
    from converter.validate.interface import shipped_task

    files = {name: package / f for name, f in model_files(read_manifest(package)).items()}
    shipped, limits = shipped_task(proof.source, package), Limits(max_drop=0.003)
    made = compare_answers(proof.source, proof.reference, OnnxRunner(files).run, limits, SILENT, "", shipped)
    return next(c for c in made.evaluation.checks if c.name == "metric")


def test_a_package_that_stops_too_soon_scores_lower(translator_package: Path, translator_proof: Proof) -> None:
    judged = scored(translator_proof, labelled(translator_proof, lambda text, written: written))
    with_settings(translator_package, {"max_new_tokens": 3})
    check = of_metric(judged, translator_package)
    assert check.status is Status.FAIL
    assert "bleu falls by" in check.detail


def test_references_that_the_source_itself_does_not_reach_prove_nothing(
    translator_package: Path, translator_proof: Proof
) -> None:
    for wanted, said in (
        (lambda text, written: " ".join(reversed(text)), "no better than chance"),
        (lambda text, written: text, "to copy the texts"),
    ):
        judged = scored(translator_proof, labelled(translator_proof, wanted))
        check = of_metric(judged, translator_package)
        assert check.status is Status.NOT_RUN
        assert said in check.detail


def test_plain_text_is_scored_by_its_perplexity_as_transformers_has_it(package: Path, proof: Proof) -> None:
    import torch

    from converter.examples import Example, References

    texts = [j.example.text for j in proof.reference.judged[:3]]
    judged = scored(proof, [Example(text, label=References(())) for text in texts])
    total = count = 0.0
    for text in texts:
        ids = proof.source.tokenizer(text, return_tensors="pt")["input_ids"]
        module: Any = proof.source.module
        with torch.inference_mode():
            total += float(module(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert judged.reference.metric == {"perplexity": pytest.approx(np.exp(total / count), rel=1e-4)}
    # Drawn at random, it is surprised by every text: nothing can be proven by that.
    assert judged.reference.metric["perplexity"] > proof.source.task.config.vocab_size
    checks = judged.of(package)
    assert checks["perplexity"].status is Status.NOT_RUN
    assert "no better than chance" in checks["perplexity"].detail


def test_the_perplexity_of_the_evaluation_file_is_judged(package: Path, proof: Proof) -> None:
    from converter.examples import Example, References

    # What the model itself writes is no surprise to it.
    rows = labelled(proof, lambda text, written: written)
    texts = [Example(f"{e.text}{e.label.texts[0]}", label=References(())) for e in rows if e.label.texts[0].strip()]
    judged = scored(proof, texts)
    judged.source.task.config.vocab_size, size = 10**9, judged.source.task.config.vocab_size
    try:
        reference = replace(judged.reference, chance=1e9)
        sound = Proof(judged.source, reference).of(package)["perplexity"]
        positions_off_by_one(package)
        faulty = Proof(judged.source, reference).of(package)["perplexity"]
    finally:
        judged.source.task.config.vocab_size = size
    assert (sound.status, faulty.status) == (Status.PASS, Status.FAIL)
    assert "of the evaluation file" in sound.detail


def test_the_same_proof_passes_without_a_fault(package: Path, proof: Proof) -> None:
    checks = proof.of(package)
    assert {n for n, c in checks.items() if c.status is not Status.PASS} == set()


def test_the_source_itself_is_held_to_generate_of_its_owners_library(proof: Proof) -> None:
    """Our loop with a stop token ignored is not what transformers writes: nothing may be made of that."""
    from converter.reference import capture_reference
    from converter.validate.owner import check_owner

    source: Any = replace(proof.source, task=type(proof.source.task)(proof.source.config))
    task: Any = proof.source.task
    source.task.settings = replace(task.settings, eos_ids=())
    reference = capture_reference(source, [j.example for j in proof.reference.judged], SILENT)
    with pytest.raises(SourceError, match="our loop"):
        check_owner(source, reference, SILENT)


def test_an_answer_of_one_token_or_of_one_repeated_proves_nothing(proof: Proof) -> None:
    task = proof.source.task
    assert "ends at once" in str(task.idle([(5,), (7,)]))
    assert "one and the same token" in str(task.idle([(5, 5, 5), (5, 5)]))
    assert task.idle([(5, 6), (5, 7)]) is None


@pytest.mark.parametrize(
    ("decisions", "said"), [((5, 5, 5), "one and the same token"), ((5,), "ends at once"), ((5, 6), "the same answer")]
)
def test_a_package_of_a_source_that_says_nothing_is_not_proven(
    decisions: tuple[int, ...], said: str, package: Path, proof: Proof
) -> None:
    few = proof.reference.judged[:3]
    alike = tuple((i, *decisions[1:]) if len(decisions) == 1 else decisions for i in range(3))
    if said.startswith("one"):
        alike = (decisions, decisions[1:], decisions)
    checks = Proof(proof.source, replace(proof.reference, judged=few, decisions=alike)).of(package)
    for name in ("agreement", "generation", "stops", "perplexity", "cache"):
        assert checks[name].status is Status.NOT_RUN, name
    assert said in checks["generation"].detail


# What is not there is refused by name, before any work.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": ["tflite"]}, "tflite packages of models for text-generation come later"),
        ({"targets": ["ort-gpu"]}, "ort-gpu packages of models for text-generation come later"),
        ({"targets": ["cpu-int8"], "quantize": {"cpu-int8": "dynamic"}}, "dynamic comes later"),
        ({"targets": ["cpu-int8"], "quantize": {"cpu-int8": "auto"}}, "comes later"),
        ({"targets": ["cpu-int8"], "task": "text-classification"}, "not for text-classification"),
        ({"targets": ["cpu-int8"], "prompt": "query"}, "no prompts to choose from"),
        ({"targets": ["cpu-int8"], "compress": [{"stage": "prune.structured", "heads": 0.5}]}, "works on encoders"),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    options: dict[str, Any], said: str, made: Callable[[str], Made], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=said) as caught:
        convert({"model": str(made(CAUSAL).folder), **options}, tmp_path / "out")
    assert isinstance(caught.value, UsageError)
    assert not (tmp_path / "out").exists()


def test_a_classifier_of_a_writing_architecture_is_no_writer(made: Callable[[str], Made], tmp_path: Path) -> None:
    from converter.model_folder.load import load_source

    folder = Path(shutil.copytree(made(CAUSAL).folder, tmp_path / "model"))
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(table | {"architectures": ["GPT2ForSequenceClassification"]}))
    with pytest.raises(SourceError, match="none of its classes that write text"):
        load_source(str(folder))


# plm-export run


def test_run_writes_what_transformers_writes(made: Callable[[str], Made], capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    import transformers

    from converter.commands.cli import run

    folder = made(CAUSAL).folder
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    asked = tokenizer("the old town", return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**asked, do_sample=False, max_new_tokens=12, pad_token_id=0)[0]
    wanted = tokenizer.decode(ids[asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert run(["run", str(made(CAUSAL).package), "the old town", "--max-new-tokens", "12"]) == 0
    assert capfd.readouterr().out == f"{wanted}\n"


def test_run_takes_a_file_and_answers_in_json(
    made: Callable[[str], Made], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    file = tmp_path / "texts.txt"
    file.write_text("water boils\n\nthe old town\n", encoding="utf-8")
    assert run(["run", str(made(TRANSLATES).package), "--file", str(file), "--beams", "2", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["text"] for row in rows] == ["water boils", "the old town"]
    assert all(row["written"] for row in rows)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--max-new-tokens", "0", "a"], "max_new_tokens is 0"),
        (["--pair", "b", "a"], "reads one text"),
        (["word " * 200], "leaves no room for an answer"),
        (["--sample", "--beams", "3", "a"], "it searches or it samples"),
        (["--temperature", "2", "a"], "nothing is drawn"),
        (["a", "--file", "b.txt"], "not both"),
        (["--file", "nowhere.txt"], "no such file"),
    ],
)
def test_run_refuses_what_cannot_be_written(
    argv: list[str], said: str, made: Callable[[str], Made], capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    assert run(["run", str(made(CAUSAL).package), *argv]) == 2
    assert said in capfd.readouterr().err
