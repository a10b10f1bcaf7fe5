"""MediaPipe's variant answers like the package, and all around its graph is right; or it is left out, and said why."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import Bundle
from converter.data.probes import builtin_examples, choose_probes
from converter.device.tables import escaped
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.files import write_model_files
from converter.model_folder.labels import label_of_line
from converter.model_folder.load import load_source
from converter.reference import capture_reference
from converter.stage import SILENT, Context, run_stage
from converter.tflite.file import add_buffer, code_of, inputs_of, read_flat, write_flat
from converter.tflite.lengths.stamp import LengthDependent
from converter.tflite.lower.lower import LowerTflite
from converter.tflite.mediapipe.check import check_variant, distance, try_variant, wrong_around
from converter.tflite.mediapipe.metadata import append_files
from converter.tflite.mediapipe.variant import (
    MEDIAPIPE_FILE,
    NotForMediaPipe,
    scores_of,
    vocabulary_of,
    write_mediapipe,
)
from converter.tflite.model import TfliteModel
from converter.tflite.runner import TfliteRunner
from converter.validate.checks import Check, Status
from tests.contract.device_packages import make_package_files, python_sample
from tests.tiny import SENTENCES

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

LENGTHS = (8, 20)
FULLY_CONNECTED = 9


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(work=tmp_path_factory.mktemp("work"), calibration=tuple(Example(s) for s in SENTENCES))


@pytest.fixture(scope="module")
def bert(tiny: Callable[..., Path], ctx: Context) -> TfliteModel:
    return run_stage(LowerTflite(LENGTHS), load_source(str(tiny("bert", layers=1))), ctx)[0]


@pytest.fixture(scope="module")
def variant(bert: TfliteModel, ctx: Context) -> Path:
    path = ctx.work / "variant" / MEDIAPIPE_FILE
    path.parent.mkdir()
    write_mediapipe(bert.path, bert.source, path)
    return path


def _checked(bert: TfliteModel, folder: Path, left_out: str = "") -> tuple[list[Check], dict[str, Any]]:
    probes = choose_probes((), builtin_examples(bert.source), 6)
    source = replace(bert.source, max_length=LENGTHS[-1])
    reference = capture_reference(source, probes, SILENT, ())
    bundle = Bundle(folder, {MODEL: "model.tflite"}, bert.source, {MEDIAPIPE_FILE: left_out})
    return check_variant(bundle, source, reference, TfliteRunner(bert.path, source.specs), SILENT)


def _changed(variant: Path, folder: Path, change: Callable[[Any], None], bert: TfliteModel) -> Path:
    """Write the variant with one thing changed in its tables."""
    model = read_flat(variant)
    change(model)
    path = folder / MEDIAPIPE_FILE
    write_flat(model, path, inline=True)
    words = "".join(f"{word}\n" for word in vocabulary_of(bert.source.tokenizer))
    append_files(path, [("vocab.txt", words), ("labels.txt", "".join(f"{x}\n" for x in bert.source.task.labels))])
    return path


ODD = ("bad, very\nbad", "gut ✓ 日本", 'a "b" $c \\n {{ 1 }}')


def test_odd_names_of_classes_are_read_back_from_everything_that_a_package_holds(
    bert: TfliteModel, tmp_path: Path
) -> None:
    """The file of labels, MediaPipe's, the configuration, the samples and their golden answers."""
    folder = Path(shutil.copytree(bert.source.folder, tmp_path / "odd"))
    table = json.loads((folder / "config.json").read_text())
    table |= {"id2label": dict(enumerate(ODD)), "label2id": {name: i for i, name in enumerate(ODD)}}
    (folder / "config.json").write_text(json.dumps(table))
    source, package = load_source(str(folder)), tmp_path / "package"
    package.mkdir()

    write_model_files(source, package, {})
    lines = (package / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(map(label_of_line, lines)) == ODD
    assert tuple(json.loads((package / "config.json").read_text())["id2label"].values()) == ODD

    write_mediapipe(bert.path, source, package / MEDIAPIPE_FILE)
    with zipfile.ZipFile(package / MEDIAPIPE_FILE) as archive:
        assert archive.read("labels.txt").decode().splitlines() == lines
    assert wrong_around(package / MEDIAPIPE_FILE, source) == ""

    shutil.copyfile(bert.path, package / "model.tflite")
    made = make_package_files(package, source, TfliteRunner(bert.path, source.specs))
    assert python_sample(made).LABELS == ODD
    rows = [r.split("\t") for r in (made.samples / "assets" / "golden.tsv").read_text(encoding="utf-8").splitlines()]
    told = {row[6] for row in rows if row[0] == "text"}
    assert len(told) > 1
    assert told <= {escaped(name) for name in ODD}


def test_it_answers_like_the_package(bert: TfliteModel, variant: Path, ctx: Context) -> None:
    with zipfile.ZipFile(variant) as archive:
        kept = {i.filename: i.compress_type for i in archive.infolist()}
        assert kept == {"vocab.txt": zipfile.ZIP_STORED, "labels.txt": zipfile.ZIP_STORED}
        assert archive.read("labels.txt").decode().splitlines() == list(bert.source.task.labels)
        assert len(archive.read("vocab.txt").decode().splitlines()) == len(bert.source.tokenizer)
    try_variant(bert, variant, ctx)
    (check,), facts = _checked(bert, variant.parent)
    assert check.status is Status.PASS, check
    assert facts["mediapipe"]["worst"] < 1e-5


def _other_bias(model: Any) -> None:
    graph = model.subgraphs[0]
    last = next(o for o in reversed(graph.operators) if code_of(model, o) == FULLY_CONNECTED)
    graph.tensors[inputs_of(last)[2]].buffer = add_buffer(model, np.array([9, 0, 0], np.float32))


def _other_order(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.inputs = graph.inputs[[0, 2, 1]]


def _no_metadata(model: Any) -> None:
    model.metadata = []


@pytest.mark.parametrize(
    ("change", "said"),
    [(_other_bias, "at worst"), (_other_order, "in this order"), (_no_metadata, "metadata")],
    ids=["a wrong answer", "a wrong order", "no metadata"],
)
def test_what_mediapipe_would_answer_otherwise_fails(
    bert: TfliteModel, variant: Path, ctx: Context, tmp_path: Path, change: Callable[[Any], None], said: str
) -> None:
    _changed(variant, tmp_path, change, bert)
    (check,), _ = _checked(bert, tmp_path)
    assert (check.status, said in check.detail) == (Status.FAIL, True), check


@pytest.mark.parametrize(
    ("files", "said"),
    [([], "no vocabulary"), ([("vocab.txt", "a\nb\n"), ("labels.txt", "x\n")], "vocab.txt does not match")],
)
def test_files_behind_the_model_are_those_of_the_model(
    bert: TfliteModel, variant: Path, tmp_path: Path, files: list[tuple[str, str]], said: str
) -> None:
    path = tmp_path / MEDIAPIPE_FILE
    write_flat(read_flat(variant), path, inline=True)
    append_files(path, files) if files else None
    assert said in wrong_around(path, bert.source)
    assert wrong_around(variant, bert.source) == ""


def test_a_distance_is_felt_whatever_the_number_of_classes() -> None:
    """A mean over 400 classes would pass whatever they say."""
    one, other = np.eye(400)[:1], np.eye(400)[1:2]
    assert distance(one, other, "SOFTMAX") == 1
    assert distance(one, other, "LOGISTIC") == 1
    assert distance(one, other, None) == 1
    assert distance(one * 7, one, None) == 0
    assert np.isnan(distance(one * np.nan, one, "SOFTMAX"))


def test_a_graph_that_does_not_run_at_other_lengths_is_no_variant(
    bert: TfliteModel, variant: Path, ctx: Context, tmp_path: Path
) -> None:
    def fixed(model: Any) -> None:
        """Let a shape be that of one length, as some operation of an unknown architecture may have it."""
        graph = model.subgraphs[0]
        reshape = next(o for o in graph.operators if len(inputs_of(o)) == 2 and o.builtinOptionsType == 0)
        tensor = graph.tensors[inputs_of(reshape)[1]]
        values = model.buffers[tensor.buffer].data.view(np.int32).copy()
        tensor.buffer = add_buffer(model, np.where(values == -1, 5, values))

    with pytest.raises(LengthDependent, match="the runtime says"):
        try_variant(bert, _changed(variant, tmp_path, fixed, bert), ctx)


def test_what_mediapipe_has_no_form_for_is_left_out_and_said(
    bert: TfliteModel, tiny: Callable[..., Path], ctx: Context, tmp_path: Path
) -> None:
    roberta = load_source(str(tiny("roberta", layers=1)))
    with pytest.raises(NotForMediaPipe, match="MediaPipe supports WordPiece"):
        vocabulary_of(roberta.tokenizer)
    tags = load_source(str(tiny("bert", "token-classification", layers=1)))
    with pytest.raises(NotForMediaPipe, match="no task for token-classification"):
        write_mediapipe(bert.path, tags, tmp_path / MEDIAPIPE_FILE)
    numbers = load_source(str(tiny("bert", layers=1, problem_type="regression")))
    with pytest.raises(NotForMediaPipe, match="regression scores"):
        scores_of(numbers)
    assert vocabulary_of(bert.source.tokenizer)
    checks, facts = _checked(bert, tmp_path, left_out="its tokenizer is BPE")
    assert checks == []
    assert facts["mediapipe"]["left_out"] == "its tokenizer is BPE"
