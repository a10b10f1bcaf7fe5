"""Samples run whatever signatures a file has: lengths over one graph, any length, several texts a call."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.artifact import Bundle
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.tflite.mediapipe.variant import MEDIAPIPE_FILE
from targets.tflite import Tflite
from tests.contract.conftest import BATCH
from tests.contract.device_packages import LENGTHS, N_TEXTS, Made, build_demo, lines_of, run

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

ALL = f"{N_TEXTS} of {N_TEXTS}"
SAME = f"{ALL} answers the same"


@pytest.mark.parametrize("name", ["shared", "any", "batch"])
def test_python_runs_every_sort_of_signature(name: str, packages: dict[str, Made]) -> None:
    made = packages[name]
    done = run(sys.executable, made.samples / "python" / "text_model.py", made.folder, "--selftest")
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert f"model: {ALL} texts as recorded; {SAME}" in done.stdout
    assert (f"{BATCH} texts a call: {ALL} texts as recorded; {SAME}" in done.stdout) == (name == "batch")


@pytest.mark.parametrize("name", ["shared", "any", "batch"])
def test_cpp_runs_every_sort_of_signature(name: str, packages: dict[str, Made], tmp_path: Path) -> None:
    made = packages[name]
    demo, assets = build_demo(made.samples, tmp_path), made.samples / "assets"
    done = run(demo, "--selftest", made.folder / "model.tflite", assets)
    assert done.returncode == 0, done.stdout + done.stderr[-500:]
    assert f"tokenizer: {(n := lines_of(assets / 'parity.tsv'))} of {n} texts get the recorded ids" in done.stdout
    counts = re.findall(rf"(\w+|{BATCH} texts a call): {ALL} texts as recorded, .*; {SAME}", done.stdout)
    assert counts == ([f"{BATCH} texts a call", "model"] if name == "batch" else ["model"])
    # A sample for other signatures than the file has says so.
    other = packages["shared" if name == "any" else "any"].folder / "model.tflite"
    refused = run(demo, "--selftest", other, assets)
    assert (refused.returncode, "the model has no signature" in refused.stderr) == (1, True)


def test_several_texts_a_call_are_told_apart(packages: dict[str, Made], tmp_path: Path) -> None:
    made = packages["batch"]
    shutil.copytree(made.folder, tmp_path / "package")
    sample = tmp_path / "package" / "samples" / "python" / "text_model.py"
    code = sample.read_text("utf-8")
    sample.write_text(code.replace("for i in range(len(rows))]", "for i in reversed(range(len(rows)))]"), "utf-8")
    done = run(sys.executable, sample, tmp_path / "package", "--selftest")
    assert done.returncode == 1
    assert f"{BATCH} texts a call: {ALL}" not in done.stdout
    assert f"model: {ALL} texts as recorded" in done.stdout


@pytest.mark.parametrize("name", ["separate", "shared", "any", "batch"])
def test_the_readme_says_which_lengths_there_are(name: str, packages: dict[str, Made]) -> None:
    text = " ".join((packages[name].samples / "README.md").read_text(encoding="utf-8").split())
    assert ("a text is run at its own length, without padding" in text) == (name == "any")
    assert ("(12, 24 tokens; the shortest one that fits the text is used)" in text) == (name != "any")
    assert (f"{BATCH} texts per call, by signatures such as `serving_12_batch_{BATCH}`" in text) == (name == "batch")


@pytest.mark.parametrize("name", ["separate", "shared", "any"])
def test_the_commands_for_the_phone_feed_what_the_model_takes(name: str, packages: dict[str, Made]) -> None:
    text = (packages[name].samples / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"benchmark_model --graph=.*", text)
    wanted = (16, LENGTHS[-1]) if name == "any" else LENGTHS
    assert [
        f"serving_{n}_threads{t}.txt" in c
        for c, (n, t) in zip(commands, [(n, t) for n in wanted for t in (1, 2)], strict=True)
    ]
    for command in commands:
        flags = dict(re.findall(r"--(\w+)=(\S+)", command))
        _as_the_tool_does(packages[name].folder / "model.tflite", flags)
    # Without ranges the tool fills everything with up to 99, and a type id of 99 is an error.
    del flags["input_layer_value_range"]
    with pytest.raises(RuntimeError, match="out of bounds"):
        _as_the_tool_does(packages[name].folder / "model.tflite", flags)


def _as_the_tool_does(path: Path, flags: dict[str, str]) -> None:
    """Feed a signature by the flags of `benchmark_model`: layers in the order of the graph, numbers up to 99."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    call = interpreter.get_signature_runner(flags["signature_to_run_for"])
    details = call.get_input_details()
    ranges = {
        n: (int(a), int(b))
        for n, a, b in (r.split(",") for r in flags.get("input_layer_value_range", "").split(":") if r)
    }
    shapes = [tuple(map(int, s.split(","))) for s in flags["input_layer_shape"].split(":")]
    rng = np.random.default_rng(0)
    feed = {}
    for name, shape in zip(flags["input_layer"].split(","), shapes, strict=True):
        low, high = ranges.get(name, (0, 99))
        feed[name] = rng.integers(low, high, shape, dtype=np.int32, endpoint=True)
    # Its layers are those of the graph in their order, whatever they are called.
    assert sorted(feed, key=lambda name: details[name]["index"]) == list(feed)
    assert np.isfinite(next(iter(call(**feed).values()))).all()


def test_a_gpu_is_spoken_of_where_shapes_are_fixed(packages: dict[str, Made]) -> None:
    texts = {name: (made.samples / "README.md").read_text(encoding="utf-8") for name, made in packages.items()}
    assert {name: "--use_gpu=true" in text for name, text in texts.items()} == {
        "separate": True,
        "shared": False,
        "any": False,
        "batch": True,
    }
    assert "which runs 0 pieces: any_length (its shapes are dynamic)" in texts["any"]


def test_the_package_says_how_mediapipe_calls_it(packages: dict[str, Made], tiny_sentence_transformer: Path) -> None:
    shared = packages["shared"]
    embedder = load_source(str(tiny_sentence_transformer))
    for source, task, call in ((shared.source, "TextClassifier", "classify("), (embedder, "TextEmbedder", "embed(")):
        text = Tflite().usage(Bundle(shared.folder, {MODEL: "model.tflite"}, source))
        assert f"text.{task}.create_from_options(options).{call}" in text
        assert f"beyond {LENGTHS[-1]} tokens its answers are wrong" in text
        assert len(set(re.findall(r"Text(?:Classifier|Embedder)", text))) == 1


@pytest.mark.parametrize("why", ["MediaPipe has no task for token-classification", "disabled: mediapipe=false"])
def test_the_package_says_why_it_has_no_file_for_mediapipe(
    why: str, packages: dict[str, Made], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copyfile(packages["shared"].folder / "model.tflite", tmp_path / "model.tflite")
    source = load_source(str(tiny("bert", "token-classification")))
    bundle = Bundle(tmp_path, {MODEL: "model.tflite"}, source, {MEDIAPIPE_FILE: why})
    assert f"no file for MediaPipe Tasks: {why}." in Tflite().usage(bundle)


def test_of_many_lengths_a_few_are_measured(packages: dict[str, Made], tmp_path: Path) -> None:
    many = tuple(range(8, 129, 4))
    text = (packages["shared"].write(tmp_path, lengths=many) / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"> serving_(\d+)_threads1", text) == ["8", "16", "32", "64", "128"]
