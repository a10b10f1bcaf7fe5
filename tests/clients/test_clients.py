"""The ONNX folders, opened unchanged by the clients that people have, answer as our own runner does.

`make clients` makes their environments; where one is absent its tests are skipped, and the end of the run says so.
"""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import Bundle
from converter.data.encode import encode_text
from converter.examples import Example
from converter.graphs import MODEL, ModelFacts, encoder_graph
from converter.model_folder.load import load_source
from converter.onnx.package import find_models
from converter.onnx.runner import OnnxRunner
from converter.reference import capture_reference
from converter.registry import target_class
from converter.stage import SILENT, Context, run_stages
from tests.clients.asking import HERE, Client, environment
from tests.owner_folders import FOLDERS
from tests.tiny import SENTENCES, make_tiny_sentence_transformer

LONG = " ".join(SENTENCES[:8])
TEXTS: list[tuple[str, str | None]] = [
    (SENTENCES[0], None),
    ("who wrote the letter?", "the letter was written by Clara"),
    ("", None),
    ("Größe, naïve café, 東京 🙂", None),
    (LONG, None),
    (LONG, SENTENCES[1]),
]
Answers = dict[str, Any]

pytestmark = pytest.mark.client


@pytest.fixture(scope="session")
def package(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `package(family, task, target, precision)`: a package's folder, made once a session.

    `task` is one, `sentences`, or a name of `FOLDERS`, which says the family itself.
    """
    made: dict[tuple[str, ...], Path] = {}

    def folder(family: str, task: str, target: str = "cpu-int8", precision: str = "dynamic") -> Path:
        key = (family, task, target, precision)
        if key not in made:
            root = tmp_path_factory.mktemp("-".join(key))
            source = (
                make_tiny_sentence_transformer(root / "source", family, layers=1)
                if task == "sentences"
                else FOLDERS[task](root / "source")
                if task in FOLDERS
                else tiny(family, task, layers=1)
            )
            made[key] = _emit(source, root, target, precision)
        return made[key]

    return folder


def _emit(folder: Path, root: Path, target_name: str, precision: str) -> Path:
    source, target = load_source(str(folder)), target_class(target_name)()
    work, out = root / "work", root / "package"
    work.mkdir()
    out.mkdir()
    ctx = Context(work=work, calibration=tuple(Example(s) for s in SENTENCES))
    artifact, _ = run_stages(target.stages(precision, {}, source), source, ctx)
    target.emit(artifact, source, out, ctx).verify()
    return out


def ask_js(node_modules: Path, tmp_path: Path, **question: Any) -> Answers:
    """Run transformers.js in a process of its own and read its answers."""
    asked, answered = tmp_path / "asked.json", tmp_path / "answered.json"
    asked.write_text(json.dumps(question), encoding="utf-8")
    command = ["node", str(HERE / "transformers_js.mjs"), str(node_modules), str(asked), str(answered)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made: Answers = json.loads(answered.read_text(encoding="utf-8"))
    return made


def ours(folder: Path, inputs: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Run our own runner on the ids that the client used."""
    runner = OnnxRunner(find_models(folder))
    rows = {"token_type_ids": [0] * len(inputs["input_ids"])} | inputs
    return runner.run(MODEL, {i.name: np.array([rows[i.name]], dtype=np.int64) for i in runner.graphs[MODEL].inputs})


def wanted_ids(source: Path, text: str, pair: str | None) -> dict[str, list[int]]:
    """Return the ids that this project judges by."""
    model = load_source(str(source))
    # Not the task's own encoding: that hides words for fill-mask and splits them for tags; clients take text.
    made = encode_text(model.tokenizer, Example(text, pair), model.max_length)
    return {name: made.inputs[name].tolist() for name in model.input_names}


def assert_same_outputs(folder: Path, rows: list[Answers]) -> None:
    for row in rows:
        for name, value in ours(folder, row["inputs"]).items():
            if name in row["outputs"]:
                found = np.array(row["outputs"][name]["data"]).reshape(row["outputs"][name]["dims"])
                # Another ONNX Runtime build may pick another kernel: equal but for rounding.
                np.testing.assert_allclose(found, value, atol=2e-2 * float(np.ptp(value) + 1e-3))


TASKS = [
    ("bert", "text-classification"),
    ("electra", "text-classification"),
    ("roberta", "text-classification"),
    ("bert", "token-classification"),
    ("distilbert", "question-answering"),
    ("bert", "fill-mask"),
]


@pytest.mark.parametrize(("family", "task"), TASKS)
def test_transformers_js_opens_it_unchanged(
    family: str, task: str, package: Callable[..., Path], tiny: Callable[..., Path], node_modules: Path, tmp_path: Path
) -> None:
    folder = package(family, task)
    answer = ask_js(node_modules, tmp_path, folder=str(folder), task=task, texts=TEXTS)
    assert_same_outputs(folder, answer["made"])
    for (text, pair), row in zip(TEXTS, answer["made"], strict=True):
        wanted = wanted_ids(tiny(family, task, layers=1), text, pair)
        assert len(row["inputs"]["input_ids"]) == len(wanted["input_ids"])
        # transformers.js cuts a long text behind its last token, the closing separator included; Python keeps that.
        if text != LONG:
            assert {k: row["inputs"][k] for k in wanted} == wanted
    if task == "text-classification":
        assert answer["piped"][0]["label"].startswith("class ")


@pytest.mark.parametrize(("family", "task"), TASKS)
def test_optimum_opens_it_unchanged(
    family: str, task: str, package: Callable[..., Path], tiny: Callable[..., Path], client: Client, tmp_path: Path
) -> None:
    folder = package(family, task)
    answer = client.ask("optimum_client", tmp_path, {"folder": str(folder), "task": task, "texts": TEXTS})
    assert_same_outputs(folder, answer["made"])
    for (text, pair), row in zip(TEXTS, answer["made"], strict=True):
        wanted = wanted_ids(tiny(family, task, layers=1), text, pair)
        assert {k: row["inputs"][k] for k in wanted} == wanted


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_sentence_transformers_opens_it_unchanged(
    family: str, package: Callable[..., Path], client: Client, tmp_path: Path
) -> None:
    folder = package(family, "sentences")
    texts = [row for row in TEXTS if row[1] is None]
    question = {"folder": str(folder), "kind": "SentenceTransformer", "texts": texts}
    answer = client.ask("sentence_client", tmp_path, question)
    for (text, _), found in zip(texts, answer["made"], strict=True):
        wanted = ours(folder, wanted_ids(folder.parent / "source", text, None))["sentence_embedding"][0]
        np.testing.assert_allclose(found, wanted, atol=2e-2)


@pytest.mark.parametrize("name", ["default prompt, two poolings", "prompt not pooled, mean", "two dense"])
def test_sentence_transformers_answers_by_the_package_as_by_its_source(
    name: str, package: Callable[..., Path], client: Client, tmp_path: Path
) -> None:
    """The client applies prompt, poolings and modules itself: what it reads beside the graph must say the same."""
    import sentence_transformers

    folder = package("", name, precision="none")
    texts = [row for row in TEXTS if row[1] is None]
    question = {"folder": str(folder), "kind": "SentenceTransformer", "texts": texts}
    answer = client.ask("sentence_client", tmp_path, question)
    library = sentence_transformers.SentenceTransformer(str(folder.parent / "source" / "model"), device="cpu")
    for (text, _), found in zip(texts, answer["made"], strict=True):
        np.testing.assert_allclose(found, library.encode(text), atol=1e-4)


@pytest.mark.parametrize("name", ["cross-encoder", "cross-encoder, three classes", "cross-encoder before version 6"])
def test_a_cross_encoder_scores_by_the_package_as_by_its_source(
    name: str, package: Callable[..., Path], client: Client, tmp_path: Path
) -> None:
    """With the activation that the package states, as a user calls it."""
    import sentence_transformers

    folder = package("", name, precision="none")
    pairs = [(SENTENCES[0], SENTENCES[1]), *(row for row in TEXTS if row[1] is not None)]
    question = {"folder": str(folder), "kind": "CrossEncoder", "texts": pairs}
    answer = client.ask("sentence_client", tmp_path, question)
    source = folder.parent / "source"
    library = sentence_transformers.CrossEncoder(str(source / "model" if (source / "model").is_dir() else source))
    for pair, found in zip(pairs, answer["made"], strict=True):
        np.testing.assert_allclose(found, library.predict([pair])[0], atol=1e-4)


def test_questions_are_answered_as_transformers_pipeline_answers_them(
    tiny: Callable[..., Path], client: Client, tmp_path: Path
) -> None:
    """Long contexts too, by windows; the pipeline is gone from transformers 5."""
    folder = tiny("bert", "question-answering", layers=2)
    asked = ("who wrote the letter?", "where does it end?", "what was good?")
    contexts = (SENTENCES[9], " ".join(SENTENCES), " ".join(reversed(SENTENCES)))
    texts = [(question, context) for question in asked for context in contexts]
    answer = client.ask("question_client", tmp_path, {"folder": str(folder), "texts": texts})
    source = load_source(str(folder))
    reference = capture_reference(source, [Example(q, c, where=f"{q} {c}") for q, c in texts], SILENT)
    spans = {j.example.where: d for j, d in zip(reference.judged, reference.decisions, strict=True)}
    found = [spans[f"{q} {c}"] for q, c in texts]
    assert len(reference.judged) > len(texts)
    assert ["" if span.null else span.text for span in found] == [a.strip() for a in answer["made"]]


def test_transformers_js_gives_the_embedding_of_the_graph(
    package: Callable[..., Path], node_modules: Path, tmp_path: Path
) -> None:
    folder = package("bert", "sentences")
    answer = ask_js(node_modules, tmp_path, folder=str(folder), task="feature-extraction", texts=TEXTS)
    assert {"last_hidden_state", "sentence_embedding"} <= set(answer["made"][0]["outputs"])
    assert_same_outputs(folder, answer["made"])


@pytest.mark.parametrize(("target", "precision"), [("cpu-int8", "static"), ("cpu-int8", "none"), ("ort-gpu", "fp16")])
def test_every_precision_opens_in_transformers_js(
    target: str, precision: str, package: Callable[..., Path], node_modules: Path, tmp_path: Path
) -> None:
    folder = package("bert", "text-classification", target, precision)
    answer = ask_js(node_modules, tmp_path, folder=str(folder), task="text-classification", texts=TEXTS)
    assert_same_outputs(folder, answer["made"])


def test_the_code_for_transformers_js_in_the_readme_of_a_score_gives_the_score(
    tiny: Callable[..., Path], node_modules: Path, tmp_path: Path
) -> None:
    """The client's pipeline makes 1 of every single score."""
    source = load_source(str(tiny("bert", "text-classification", num_labels=1, layers=1)))
    folder = _emit(source.folder, tmp_path, "cpu-int8", "none")
    shown = target_class("cpu-int8")().usage(Bundle(folder, {MODEL: "onnx/model.onnx"}, source))
    (code,) = re.findall(r"```js\n(.*?)```", shown, re.DOTALL)
    entry = (node_modules / "@huggingface/transformers/dist/transformers.node.mjs").as_uri()
    code = code.replace("@huggingface/transformers", entry).replace("NAME OF THIS FOLDER", folder.name)
    (folder / "shown.mjs").write_text(code.replace("logits.tolist()", "JSON.stringify(logits.tolist())"))
    done = subprocess.run(
        ["node", "shown.mjs"], cwd=folder, capture_output=True, text=True, env=environment(), timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    wanted = ours(folder, wanted_ids(source.folder, "A text.", None))["logits"]
    assert abs(float(wanted[0, 0]) - 1) > 1e-3, "a score that the pipeline would give too tells nothing"
    np.testing.assert_allclose(json.loads(done.stdout), wanted, atol=1e-4)


def test_a_client_that_answers_otherwise_is_noticed(package: Callable[..., Path]) -> None:
    folder = package("bert", "text-classification")
    inputs = {"input_ids": [2, 30, 31, 3], "attention_mask": [1, 1, 1, 1]}
    right = ours(folder, inputs)["logits"]
    row = {"inputs": inputs, "outputs": {"logits": {"dims": list(right.shape), "data": (right + 0.3).ravel().tolist()}}}
    with pytest.raises(AssertionError):
        assert_same_outputs(folder, [row])


def test_packages_hold_one_model_that_opens_by_the_folder_alone(package: Callable[..., Path]) -> None:
    folder = package("bert", "text-classification")
    runner = target_class("cpu-int8")().open(folder, encoder_graph(ModelFacts(("input_ids", "attention_mask")), ()))
    assert {o.name: o.dtype for o in runner.graphs[MODEL].outputs} == {"logits": "float32"}
    assert {i.dtype for i in runner.graphs[MODEL].inputs} == {"int64"}
