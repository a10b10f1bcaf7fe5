"""The samples of a package compile, run and answer as the package did; its second opinion is real."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import Bundle, TorchModel
from converter.device import beside
from converter.device.beside import Beside
from converter.device.facts import CLASS_NAMES, DeviceFacts, kind_of
from converter.device.gpu_forecast import forecast
from converter.device.runtime import min_runtime_version
from converter.device.samples import PACKAGE, cpp_text, java_text, swift_text, write_samples
from converter.device.second_opinion import second_opinion
from converter.examples import Example
from converter.golden import record_golden, write_golden
from converter.lowering.lower import LowerTflite
from converter.source import load_source
from converter.stage import SILENT, Context, run_stage
from converter.target import Runner, TensorSpec
from converter.validate.checks import Status
from converter.validate.reference import Reference, capture_reference, torch_run
from targets.tflite import Tflite
from tests.tiny import SENTENCES, make_tiny_sentence_transformer

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

STUBS = Path(__file__).parent / "stubs"
LENGTHS = (12, 24)
TOLERANCE = 1e-4
MULTI = {"problem_type": "multi_label_classification"}
SCORE = {"problem_type": "regression"}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "classes": ("bert", "text-classification", {}),
    "multi": ("bert", "text-classification", MULTI),
    "score": ("bert", "text-classification", SCORE),
    "tags": ("bert", "token-classification", {"num_labels": 7}),
    "span": ("bert", "question-answering", {}),
    "mask": ("bert", "fill-mask", {}),
    "tokens": ("distilbert", "feature-extraction", {}),
    "library": ("roberta", "token-classification", {}),
}
QUESTIONS = ("How many live in the old town? Who wrote?", "about 4000 people live in the old town near the lake")


class OfTorch(Runner):
    """Runs the source: what is generated is tested here, not what was lowered."""

    runtime = "PyTorch"
    lengths = LENGTHS
    max_length = LENGTHS[-1]

    def __init__(self, source: TorchModel) -> None:
        self._run = torch_run(source)
        self._shown = ("sentence_embedding",) if source.head is not None else source.task.model_outputs
        self.inputs = tuple(TensorSpec(n, "int32", (1, LENGTHS[0])) for n in source.input_names)
        made = self.run({n: np.ones((1, LENGTHS[0]), dtype=np.int64) for n in source.input_names})
        self.outputs = tuple(TensorSpec(n, "float32", v.shape) for n, v in sorted(made.items()))

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        return {n: v for n, v in self._run(feed).items() if n in self._shown}


@dataclass(frozen=True)
class Made:
    """A package's files beside the model, and what they were made from."""

    folder: Path
    source: TorchModel
    reference: Reference
    runner: Runner

    @property
    def samples(self) -> Path:
        return self.folder / "samples"


def _reference(source: TorchModel) -> Reference:
    pair = QUESTIONS[1] if source.task.name == "question-answering" else None
    examples = [Example(s, pair) for s in (*SENTENCES[:8], *QUESTIONS, "Größe 🙂 café", "")]
    return capture_reference(replace(source, max_length=LENGTHS[-1]), examples, SILENT)


def _beside(folder: Path, source: TorchModel, runner: Runner, facts: Mapping[str, Any] | None = None) -> Made:
    reference = _reference(source)
    files = Beside(folder)
    files.write_tokenizer(source)
    _, known = files.check(source, reference, LENGTHS[-1])
    golden = record_golden(source, source, reference, runner)
    write_golden(golden, folder)
    files.complete(source, golden, runner, {**known, **(facts or {})}, TOLERANCE)
    return Made(folder, source, reference, runner)


@pytest.fixture(scope="module")
def package(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A classifier as it ships, lowered for real."""
    work = tmp_path_factory.mktemp("work")
    source = load_source(str(tiny("bert", layers=1)))
    ctx = Context(work=work, calibration=tuple(Example(s) for s in SENTENCES))
    made, _ = run_stage(LowerTflite(LENGTHS), source, ctx)
    folder = tmp_path_factory.mktemp("package")
    target = Tflite(seq_len=LENGTHS)
    bundle: Bundle = target.emit(made, source, folder, ctx)
    return _beside(folder, source, target.open(bundle.folder, source.pad), forecast(folder / "model.tflite").facts())


@pytest.fixture(scope="module")
def every_kind(
    tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch
) -> dict[str, Made]:
    """The samples of every kind of model, each with what PyTorch answers as its golden vectors."""
    # The version stands in a file that is not made here.
    monkeypatch_module.setattr(beside, "least_runtime", lambda _folder: {"model.tflite": "2.9.0"})
    # Most share their tokenizer: it is asked once.
    asked: dict[str, Any] = {}
    read = beside.read_tables
    monkeypatch_module.setattr(
        beside,
        "read_tables",
        lambda backend: asked[k] if (k := backend.to_str()) in asked else asked.setdefault(k, read(backend)),
    )
    made = {}
    for name, (family, task, options) in MODELS.items():
        source = load_source(str(tiny(family, task, layers=1, **options)))
        made[name] = _beside(tmp_path_factory.mktemp(name), source, OfTorch(source))
    folder = make_tiny_sentence_transformer(tmp_path_factory.mktemp("sentences") / "model", layers=1)
    source = load_source(str(folder))
    made["embedding"] = _beside(tmp_path_factory.mktemp("embedding"), source, OfTorch(source))
    return made


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def _compiler(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def classes(every_kind: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All Java samples, compiled at once: each kind in a package of its own."""
    sources, out = tmp_path_factory.mktemp("java"), tmp_path_factory.mktemp("classes")
    for kind, made in every_kind.items():
        for file in (made.samples / "java").iterdir():
            (sources / kind).mkdir(exist_ok=True)
            text = file.read_text(encoding="utf-8").replace(f"package {PACKAGE};", f"package made.{kind};")
            (sources / kind / file.name).write_text(text, encoding="utf-8")
    files = [*sources.rglob("*.java"), *STUBS.rglob("*.java")]
    done = _run(_compiler("javac"), "-Xlint:all", "-Werror", "--release", "8", "-Xlint:-options", "-d", out, *files)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_every_kind_of_model_has_a_class_of_its_own(every_kind: dict[str, Made]) -> None:
    kinds = {kind_of(made.source) for made in every_kind.values()}
    assert kinds == set(CLASS_NAMES)
    for made in every_kind.values():
        name = CLASS_NAMES[kind_of(made.source)]
        assert (made.samples / "swift" / f"{name}.swift").is_file()
        assert name in (made.samples / "kotlin" / "OpenModel.kt").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [*MODELS, "embedding"])
def test_java_cuts_text_and_reads_outputs_as_the_package_did(
    kind: str, every_kind: dict[str, Made], classes: Path
) -> None:
    assets = every_kind[kind].samples / "assets"
    done = _run(_compiler("java"), "-XX:TieredStopAtLevel=1", "-cp", classes, f"made.{kind}.SelfTest", assets)
    assert done.returncode == 0, done.stdout + done.stderr
    n = len((assets / "golden.tsv").read_text("utf-8").split("\ntext\t")) - 1
    assert f"answers: {0 if kind == 'mask' else n} of" in done.stdout
    if kind != "library":
        hard = _lines(assets / "parity.tsv")
        assert f"tokenizer: {hard} of {hard} texts get the recorded ids" in done.stdout


def test_javas_self_test_notices_other_ids_and_other_answers(
    every_kind: dict[str, Made], classes: Path, tmp_path: Path
) -> None:
    shutil.copytree(every_kind["classes"].samples / "assets", tmp_path / "ids")
    shutil.copytree(every_kind["classes"].samples / "assets", tmp_path / "answers")
    table = tmp_path / "ids" / "parity.tsv"
    table.write_text(table.read_text("utf-8").replace("\t2 ", "\t3 ", 1), "utf-8")
    table = tmp_path / "answers" / "golden.tsv"
    text = table.read_text("utf-8")
    labels = every_kind["classes"].source.task.labels
    table.write_text(text.replace(f"\t{labels[0]}\t", "\tswapped\t"), "utf-8")
    assert "swapped" in table.read_text("utf-8")
    for name in ("ids", "answers"):
        assert _run(_compiler("java"), "-cp", classes, "made.classes.SelfTest", tmp_path / name).returncode == 1


@pytest.mark.slow
def test_kotlin_compiles_for_every_kind(every_kind: dict[str, Made], classes: Path, tmp_path: Path) -> None:
    compiler = _compiler("kotlinc")
    for kind, made in every_kind.items():
        text = (made.samples / "kotlin" / "OpenModel.kt").read_text(encoding="utf-8")
        (tmp_path / f"{kind}.kt").write_text(text.replace(f"package {PACKAGE}", f"package made.{kind}"), "utf-8")
    done = _run(compiler, *sorted(tmp_path.glob("*.kt")), "-cp", classes, "-d", tmp_path / "out.jar")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def demo(package: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ sample, compiled against the library of the Python package."""
    import ai_edge_litert

    library = Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"
    if not library.is_file():
        pytest.skip("this ai-edge-litert brings no libLiteRt.so")
    made = tmp_path_factory.mktemp("cpp") / "demo"
    flags = ("-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", f"-Wl,-rpath,{library.parent}")
    done = _run(_compiler("g++"), *flags, package.samples / "cpp" / "main.cpp", library, "-o", made)
    assert done.returncode == 0, done.stderr[-2000:]
    return made


def test_cpp_runs_the_model_as_the_package_did(package: Made, demo: Path, tmp_path: Path) -> None:
    model, assets = package.folder / "model.tflite", package.samples / "assets"
    done = _run(demo, "--selftest", model, assets)
    assert done.returncode == 0, done.stdout + done.stderr[-500:]
    hard = _lines(assets / "parity.tsv")
    assert f"tokenizer: {hard} of {hard} texts get the recorded ids" in done.stdout
    assert "12 of 12 texts as recorded" in done.stdout
    assert "12 of 12 answers the same" in done.stdout
    [label, score] = _run(demo, model, assets, SENTENCES[0]).stdout.strip().rsplit(" ", 1)
    assert label in package.source.task.labels
    assert 0 < float(score) <= 1
    # The self-test can fail: other numbers are noticed.
    shutil.copytree(assets, tmp_path / "assets")
    table = tmp_path / "assets" / "golden.tsv"
    table.write_text(table.read_text("utf-8").replace("\tlogits\t", "\tlogits\t9"), "utf-8")
    assert _run(demo, "--selftest", model, tmp_path / "assets").returncode == 1


def test_cpp_compiles_for_every_kind(every_kind: dict[str, Made], tmp_path: Path) -> None:
    """All in one go, each kind in a namespace of its own: standard headers are what takes time to read."""
    shared = ("encoded.hpp", "litert_api.hpp", "wordpiece.hpp")
    lines = [f"#include <{name}>" for name in ("cmath", "cstdio", "exception", "fstream", "sstream")]
    for kind, made in every_kind.items():
        cpp = made.samples / "cpp"
        for name in shared:
            if (cpp / name).is_file():
                shutil.copyfile(cpp / name, tmp_path / name)
        header = (cpp / "text_model.hpp").read_text("utf-8")
        own = header.replace("namespace plm {", f"namespace plm_{kind} {{ using namespace plm;")
        (tmp_path / f"{kind}.hpp").write_text(own, "utf-8")
        main = (cpp / "main.cpp").read_text("utf-8").replace("plm::", f"plm_{kind}::").splitlines()
        body = [line.replace("int main(", "int run(") for line in main if not line.startswith("#include")]
        lines += [f'#include "{kind}.hpp"', f"namespace main_{kind} {{", *body, "}"]
    (tmp_path / "all.cpp").write_text("\n".join(lines), "utf-8")
    done = _run(_compiler("g++"), "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", tmp_path / "all.cpp")
    assert done.returncode == 0, done.stderr[:2000]


def test_python_runs_the_model_as_the_package_did(package: Made) -> None:
    sample = package.samples / "python" / "text_model.py"
    done = _run(sys.executable, sample, package.folder, "--selftest")
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert "12 of 12 texts as recorded; 12 of 12 answers the same" in done.stdout


@pytest.mark.parametrize("kind", [*MODELS, "embedding"])
def test_pythons_sample_compiles_for_every_kind(kind: str, every_kind: dict[str, Made]) -> None:
    path = every_kind[kind].samples / "python" / "text_model.py"
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_the_readme_says_what_was_not_compiled_and_how_to_measure(package: Made) -> None:
    text = (package.samples / "README.md").read_text(encoding="utf-8")
    assert "**not compiled**" in text
    for length in LENGTHS:
        assert f"--signature_to_run_for=serving_{length} --num_threads=2" in text
    assert min_runtime_version(package.folder / "model.tflite") in text
    assert "{{" not in text


def test_a_tokenizer_that_cuts_the_beginning_off_brings_no_tables(package: Made) -> None:
    import copy

    tokenizer = copy.copy(package.source.tokenizer)
    assert beside.tables_of(replace(package.source, tokenizer=tokenizer)).vocabulary
    tokenizer.truncation_side = "left"
    with pytest.raises(beside.NoTables, match="beginning"):
        beside.tables_of(replace(package.source, tokenizer=tokenizer))


def test_labels_of_any_spelling_stand_in_every_language(tmp_path: Path) -> None:
    label = 'a "b" $c \\ é 🙂 ?? \n'
    assert json.loads(java_text(label).replace("\\u0024", "$")) == label
    assert set(cpp_text(label)) <= {chr(c) for c in range(0x20, 0x7F)} - {"?"}
    assert "\\u{1f642}" in swift_text(label)
    facts = DeviceFacts(
        "m",
        "classes",
        (8,),
        ("input_ids",),
        ("logits",),
        2,
        (label, "b"),
        {"input_ids": 0, "token_type_ids": 0},
        "WordPiece",
        wordpiece=False,
    )
    write_samples(facts, tmp_path)
    program = tmp_path / "labels.cpp"
    program.write_text(f"#include <cstdio>\nint main() {{ std::puts({cpp_text(label)}); }}\n", encoding="utf-8")
    assert _run(_compiler("g++"), "-Wall", "-Werror", program, "-o", tmp_path / "labels").returncode == 0
    assert _run(tmp_path / "labels").stdout == label + "\n"


def test_tensorflows_reference_kernels_agree(package: Made, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not installed")
    model = package.folder / "model.tflite"
    check, _ = second_opinion(model, package.source, package.reference, package.runner, tmp_path)
    assert (check.status, check.limit) == (Status.PASS, 1e-3), check.detail
    assert check.value is not None
    assert check.value < 1e-5


class Otherwise(Runner):
    """A runtime that reads the file otherwise: its logits come in another order."""

    def __init__(self, runner: Runner) -> None:
        self.inputs, self.outputs, self.lengths, self._run = runner.inputs, runner.outputs, runner.lengths, runner.run

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value[..., ::-1] for name, value in self._run(feed).items()}


def test_a_runtime_that_reads_the_file_otherwise_is_noticed(package: Made, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not installed")
    model = package.folder / "model.tflite"
    check, _ = second_opinion(model, package.source, package.reference, Otherwise(package.runner), tmp_path)
    assert check.status is Status.FAIL
    assert "at most 0.001 wanted" in check.detail


def test_no_second_opinion_is_never_passed_for_one(
    package: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "model.tflite"
    broken.write_bytes((package.folder / "model.tflite").read_bytes())
    monkeypatch.setattr("converter.device.second_opinion.CHILD", tmp_path / "absent.py")
    asked = (broken, package.source, package.reference, package.runner, tmp_path)
    check, _ = second_opinion(*asked)
    assert check.status is Status.NOT_RUN
    assert "does not run it" in check.detail
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    check, _ = second_opinion(*asked)
    assert (check.status, check.detail.split(":")[0]) == (Status.NOT_RUN, "TensorFlow is not installed")
