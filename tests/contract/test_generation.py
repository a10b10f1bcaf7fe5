"""Models that write text, from a folder to a sealed package: what is proven, what is refused, what must be seen."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.api import convert, verify
from converter.artifact import Bundle
from converter.errors import ExportError, PackageDamaged, SourceError, UsageError
from converter.package.manifest import model_files, read_manifest
from converter.stage import SILENT
from converter.validate.checks import Check, Status
from tests.contract.written_packages import Proof, proof_of
from tests.tiny_text import save_causal, save_marian

CAUSAL, TRANSLATES = "gpt2", "marian"
ASKED = "{% if add_generation_prompt %}<assistant>{% endif %}"
CHAT = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}" + ASKED


def save_chat(folder: Path) -> Path:
    save_causal(folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


MAKERS = {CAUSAL: save_chat, TRANSLATES: save_marian}


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
            plain = {"cpu-int8": "none"}
            (target,) = convert({"model": str(folder), "targets": ["cpu-int8"], "quantize": plain}, out).targets
            assert target.evaluation is not None, target.error
            checks = {c.name: c for c in target.evaluation.checks}
            assert target.status is Status.PASS, target.error
            known[kind] = Made(folder, out / "cpu-int8", checks)
        return known[kind]

    return make


@pytest.fixture(scope="module")
def proof(made: Callable[[str], Made]) -> Proof:
    return proof_of(made(CAUSAL).folder)


@pytest.fixture
def package(made: Callable[[str], Made], tmp_path: Path) -> Path:
    """A copy of the GPT-2's package that a test may damage."""
    return Path(shutil.copytree(made(CAUSAL).package, tmp_path / "package"))


@pytest.mark.parametrize("kind", [CAUSAL, TRANSLATES])
def test_a_model_that_writes_text_is_proven_step_by_step_and_running_free(
    kind: str, made: Callable[[str], Made]
) -> None:
    checks = made(kind).checks
    decided = ("max_error", "agreement", "stability", "generation", "stops", "perplexity", "tokenizer")
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


def edited(folder: Path) -> Iterator[Any]:
    import onnx

    path = folder / "onnx" / "model.onnx"
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
    ],
)
def test_a_fault_that_is_planted_into_a_package_fails_its_gate(
    plant: Callable[[Path], None], seen: set[str], package: Path, proof: Proof
) -> None:
    plant(package)
    assert seen <= proof.failed(package)


def test_the_same_proof_passes_without_a_fault(package: Path, proof: Proof) -> None:
    checks = proof.of(package)
    assert {n for n, c in checks.items() if c.status is not Status.PASS} == set()


@pytest.mark.parametrize("drafted", [True, False])
def test_the_source_itself_is_held_to_generate_of_its_owners_library(drafted: bool, proof: Proof) -> None:
    """Our loop with a stop token ignored is not what transformers writes: nothing may be made of that."""
    from converter.reference import capture_reference
    from converter.validate.owner import check_owner
    from converter.validate.owner_writing import OwnerDrafts

    source: Any = replace(proof.source, task=type(proof.source.task)(proof.source.config))
    task: Any = proof.source.task
    source.task.settings = replace(task.settings, eos_ids=())
    drafts = OwnerDrafts(source, SILENT) if drafted else None
    reference = capture_reference(source, [j.example for j in proof.reference.judged], SILENT, drafts=drafts)
    with pytest.raises(SourceError, match="our loop"):
        check_owner(source, reference, SILENT, drafts=drafts)


def test_what_the_owners_library_wrote_before_is_what_the_source_writes_itself(proof: Proof) -> None:
    from converter.reference import capture_reference
    from converter.validate.owner import check_owner
    from converter.validate.owner_writing import OwnerDrafts

    drafts = OwnerDrafts(proof.source, SILENT)
    examples = [j.example for j in proof.reference.judged]
    reference = capture_reference(proof.source, examples, SILENT, drafts=drafts)
    assert drafts.known, "the library wrote something"
    for one, alone in zip(reference.judged, proof.reference.judged, strict=True):
        np.testing.assert_array_equal(one.encoding.answer, alone.encoding.answer)
        np.testing.assert_array_equal(one.outputs["logits"], alone.outputs["logits"])
    assert check_owner(proof.source, reference, SILENT, drafts=drafts).check.status is Status.PASS
    drafts.known = {key: [*tokens[:-1], tokens[-1] ^ 1] for key, tokens in drafts.known.items()}
    wrong = lambda probes: [drafts.after(p.example, p.encoding) for p in probes]  # noqa: E731
    again = capture_reference(proof.source, examples, SILENT, drafts=wrong)
    for one, alone in zip(again.judged, proof.reference.judged, strict=True):
        np.testing.assert_array_equal(one.encoding.answer, alone.encoding.answer, "a draft is no answer")


def test_an_answer_of_one_token_or_of_one_repeated_proves_nothing(proof: Proof) -> None:
    task = proof.source.task
    assert "ends at once" in str(task.idle([(5,), (7,)]))
    assert "one and the same token" in str(task.idle([(5, 5, 5), (5, 5)]))
    assert task.idle([(5, 6), (5, 7)]) is None


# What is not there is refused by name, before any work.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": ["tflite"], "quantize": {"tflite": "static"}}, "tflite packages models for text-generation as"),
        ({"targets": ["cpu-int8"], "quantize": {"cpu-int8": "static"}}, "works on encoders and encoder-decoders"),
        ({"targets": ["cpu-int8"], "task": "text-classification"}, "not for text-classification"),
        ({"targets": ["cpu-int8"], "prompt": "query"}, "has no prompt 'query'"),
        ({"targets": ["cpu-int8"], "compress": [{"stage": "prune.mixed"}]}, "works on encoders"),
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


@pytest.mark.parametrize(
    ("file", "change", "said", "hint"),
    [
        ("config.json", {"architectures": None}, "names no architecture: what the model is for", '"architectures"'),
        ("config.json", {"model_type": "gpt22"}, "unknown model_type 'gpt22'", "did you mean 'gpt2'"),
        ("generation_config.json", {"max_new_tokens": 0}, "generation_config.json: max_new_tokens is 0", "correct it"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_file_and_a_way_on(
    file: str, change: dict[str, Any], said: str, hint: str, made: Callable[[str], Made], tmp_path: Path
) -> None:
    from converter.model_folder.load import load_source

    folder = Path(shutil.copytree(made(CAUSAL).folder, tmp_path / "model"))
    table = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(table | change))
    with pytest.raises(SourceError, match=said) as caught:
        load_source(str(folder))
    assert hint in caught.value.hint


@pytest.mark.parametrize(("template", "refused"), [("{% for m in messages %}", True), ("{{ m.role }}", False)])
def test_a_chat_template_that_is_none_is_refused_with_the_source(
    template: str, refused: bool, made: Callable[[str], Made], tmp_path: Path
) -> None:
    from converter.model_folder.load import load_source

    folder = Path(shutil.copytree(made(CAUSAL).folder, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(template)
    if not refused:  # what it takes is its own to say
        load_source(str(folder))
        return
    with pytest.raises(SourceError, match="the chat template cannot be read") as caught:
        load_source(str(folder))
    assert caught.value.full_code == "PLM400/chat-template"


@pytest.mark.parametrize("kind", [CAUSAL, TRANSLATES])
def test_the_sample_in_python_writes_the_recorded_texts_with_onnxruntime_and_tokenizers_alone(
    kind: str, made: Callable[[str], Made], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made(kind).package, tmp_path / "package"))
    sample = folder / "samples" / "python" / "write.py"
    golden = folder / "samples" / "assets" / "golden.json"
    table = json.loads(golden.read_text())
    assert len(table["texts"]) >= 8
    # Whatever is not numpy, onnxruntime or tokenizers must not be needed.
    guarded = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'transformers', 'converter']); sys.argv = sys.argv[1:]"
    )
    command = [sys.executable, "-c", f"{guarded}; exec(compile(open(sys.argv[0]).read(), 'write.py', 'exec'))"]

    def run() -> subprocess.CompletedProcess[str]:
        asked = [*command, str(sample), str(folder), "--selftest"]
        return subprocess.run(asked, capture_output=True, text=True, check=False)

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{len(table['texts'])} of {len(table['texts'])}")
    asked = [*command, str(sample), str(folder), "word " * 300]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the text has ")  # and no traceback
    table["texts"][0]["tokens"][0] += 1
    golden.write_text(json.dumps(table))
    assert run().returncode == 1


def test_a_package_whose_encoder_is_another_models_fails_its_verification(
    made: Callable[[str], Made], tmp_path: Path
) -> None:
    """Even where the one who put it there made the manifest fit."""
    import onnx

    from converter.model_folder.load import load_source
    from converter.package.manifest import seal

    package = Path(shutil.copytree(made(TRANSLATES).package, tmp_path / "package"))
    path = package / "onnx" / "encoder_model.onnx"
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if len(weight.dims) == 2:
            values = onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), weight.name))
    onnx.save(model, path)
    with pytest.raises(PackageDamaged, match="changed since it was sealed"):
        verify(package)
    manifest = read_manifest(package)
    (package / "manifest.json").unlink()
    bundle = Bundle(package, model_files(manifest), load_source(str(made(TRANSLATES).folder)))
    seal(bundle, {k: v for k, v in manifest.items() if k not in {"files", "manifest_sha256", "format"}})
    with pytest.raises(PackageDamaged, match=r"wrote|recorded|differ"):
        verify(package)


def test_bench_tells_what_prompts_and_tokens_take(
    made: Callable[[str], Made], capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    for kind in (CAUSAL, TRANSLATES):
        argv = ["bench", str(made(kind).package), "--lengths", "8,40", "--tokens", "4", "--seconds", "0.05", "--json"]
        assert run([*argv, "--profile"]) == 0
        rows = json.loads(capfd.readouterr().out)
        assert all(row["operators_ms"]["output layer"] > 0 for row in rows)
        assert [row["length"] for row in rows] == [8, 40]
        assert all(row["tokens_per_second"] > 0 and row["first_token_ms"] > 0 for row in rows)
        assert rows[1]["cache_mb"] > rows[0]["cache_mb"] > 0
    assert run(["bench", str(made(CAUSAL).package), "--lengths", "90"]) == 2
    assert "90 tokens and 32 after them are too many" in capfd.readouterr().err


# Chats


def test_a_chat_puts_the_message_into_the_template_that_travels_with_the_package(
    made: Callable[[str], Made], capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    asked = ["--max-new-tokens", "8"]
    assert run(["run", str(made(CAUSAL).package), "hello", "--chat", "--system", "\ufeffbe kind", *asked]) == 0
    found = capfd.readouterr()
    assert "chat template" not in found.err
    assert run(["run", str(made(CAUSAL).package), "<system> be kind\n<user> hello\n<assistant>", *asked]) == 0
    plain = capfd.readouterr()
    assert found.out == plain.out
    assert "--chat" in plain.err


@pytest.mark.parametrize(("kind", "chats"), [(CAUSAL, True), (TRANSLATES, False)])
def test_the_samples_of_a_chat_model_alone_say_how_a_message_is_given(
    made: Callable[[str], Made], kind: str, chats: bool
) -> None:
    readme = (made(kind).package / "samples" / "README.md").read_text(encoding="utf-8")
    assert ("writer([{ role: 'user', content: text }])" in readme) == chats
    assert ("`tokenizer_config.json` holds its chat template" in readme) == chats


def test_clients_find_the_template(made: Callable[[str], Made]) -> None:
    assert json.loads((made(CAUSAL).package / "tokenizer_config.json").read_text())["chat_template"] == CHAT


@pytest.mark.parametrize(
    ("template", "code", "said"),
    [
        ("{{ raise_exception('no system message') }}", 2, "no system message"),
        ("{% for %}", 6, "cannot be read"),
        ("{{ ''.__class__.__mro__ }}", 2, "refuses it"),
    ],
)
def test_a_template_that_fails_is_named_and_reaches_nothing(
    template: str, code: int, said: str, made: Callable[[str], Made]
) -> None:
    from converter.generate.chat import chat_ids
    from converter.validate.interface import load_tokenizer

    tokenizer = load_tokenizer(made(CAUSAL).package)
    tokenizer.chat_template = template
    with pytest.raises(ExportError, match=said) as caught:
        chat_ids(tokenizer, "hello")
    assert caught.value.exit_code == code


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
        (["--max-new-tokens", "0", "a"], "'--max-new-tokens': 0 is not in the range x>=1"),
        (["--sample", "--temperature", "0", "a"], "'--temperature': 0.0 is not in the range x>0"),
        (["--pair", "b", "a"], "reads one text"),
        (["word " * 200], "has no more positions"),
        (["word " * 200, "--chat"], "leaves no room for an answer"),
        (["a", "--system", "b"], "add --chat"),
        (["a", "--language", "de"], "cannot be asked for 'de'"),
        (["--sample", "--beams", "3", "a"], "it searches or it samples"),
        (["--temperature", "2", "a"], "nothing is drawn"),
        (["a", "--file", "b.txt"], "not both"),
        (["--file", "nowhere.txt"], "no such file"),
        (["half a \udcff"], "TEXT: it is not text in UTF-8"),
        (["a", "--chat", "--system", "\udcff"], "--system: it is not text in UTF-8"),
    ],
)
def test_run_refuses_what_cannot_be_written(
    argv: list[str], said: str, made: Callable[[str], Made], capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    assert run(["run", str(made(CAUSAL).package), *argv]) == 2
    assert said in capfd.readouterr().err


def test_run_says_which_text_of_a_file_is_too_long(
    made: Callable[[str], Made], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    file = tmp_path / "texts.txt"
    file.write_text(f"water boils\n\n{'word ' * 200}\n", encoding="utf-8")
    assert run(["run", str(made(CAUSAL).package), "--file", str(file), "--max-new-tokens", "2"]) == 2
    assert f"error: {file}, text 2 of 2: the text has" in capfd.readouterr().err


@pytest.mark.parametrize(("closed", "code"), [(True, 0), (False, 2)])
def test_run_asks_no_further_text_once_nobody_reads_the_answers(
    closed: bool, code: int, made: Callable[[str], Made], tmp_path: Path
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text(f"water boils\n{'word ' * 200}\n", encoding="utf-8")
    words = ("run", str(made(CAUSAL).package), "--file", str(file), "--max-new-tokens", "2", "-q")
    reads, writes = os.pipe()
    if closed:
        os.close(reads)
    command = [sys.executable, "-m", "converter.commands.cli", *words]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == bool(code), done.stderr


def test_run_refuses_a_text_that_a_translator_has_no_positions_for(
    made: Callable[[str], Made], capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    assert run(["run", str(made(TRANSLATES).package), "word " * 200]) == 2
    assert "the model takes 96" in capfd.readouterr().err


@pytest.mark.parametrize("flag", ["--chat", "--language=deu"])
def test_run_asks_a_translator_as_it_can_be_asked(
    flag: str, made: Callable[[str], Made], capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    package = str(made(TRANSLATES).package)
    code = run(["run", package, "the old town", "--max-new-tokens", "8", flag])
    found = capfd.readouterr()
    if flag == "--chat":
        assert (code, found.out) == (2, "")
        assert "has no chat template" in found.err
        return
    assert run(["run", package, ">>deu<< the old town", "--max-new-tokens", "8"]) == 0
    assert found.out == capfd.readouterr().out
