"""The samples of a package that writes text on a phone compile, run, and write what the package wrote."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from converter.api import verify
from converter.device.runtime import least_runtime
from converter.device.samples import PACKAGE
from converter.device.tokenize import DeviceTokenizer
from converter.device.tried import try_sample
from converter.device.writing.facts import writer_facts
from converter.device.writing.files import WriterFiles
from converter.device.writing.golden import check_recorded, write_recorded
from converter.device.writing.samples import TEMPLATES, write_samples
from converter.errors import PackageDamaged, StageFailed
from converter.examples import Example
from converter.generate.chat import chat_ids
from converter.generate.loop import generate
from converter.generate.rules import scoring_rules
from converter.generate.settings import GenerationSettings
from converter.model_folder.load import load_source
from converter.package.golden import Golden, read_golden
from converter.reference import Reference
from converter.tflite.writing.litertlm import LITERTLM_FILE
from converter.validate.checks import Status
from targets.tflite import Tflite
from tests.contract.device_packages import STUBS, build_demo, compiler, lines_of, run
from tests.contract.phone_writers import OPTIONS, PhoneWriter
from tests.manifests import forge

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

PROGRAMS = Path(__file__).parent / "phone_programs"
Writers = Callable[[str], PhoneWriter]
CALLS = {"gpt2": "generate", "marian": "translate"}
LONG = "the old town near the lake was wonderful " * 12


def copy_with(made: PhoneWriter, folder: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """Return a copy of a package in whose `golden.tsv` one text's line was changed."""
    shutil.copytree(made.package, folder)
    path = folder / "samples" / "assets" / "golden.tsv"
    rows = [line.split("\t") for line in path.read_bytes().decode().split("\n")[:-1]]
    at = next(i for i, row in enumerate(rows) if row[0] == "text" and row[1])
    rows[at] = change(rows[at])
    path.write_bytes("".join("\t".join(row) + "\n" for row in rows).encode())
    return folder


def another_token(row: list[str]) -> list[str]:
    first, *rest = row[3].split()
    return [*row[:3], " ".join([str(int(first) + 1), *rest]), *row[4:]]


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_package_carries_tables_and_samples_and_is_verified(kind: str, phone_writer: Writers) -> None:
    made = phone_writer(kind)
    assert made.outcome.status is Status.PASS, made.outcome.error
    checks = {c.name: c for c in made.outcome.evaluation.checks}
    assert checks["device tokenizer"].status is Status.PASS, checks["device tokenizer"].detail
    checked = verify(made.package)
    assert checked["golden_texts"]
    assert len(made.recorded()) > 4
    readme = (made.package / "README.md").read_text("utf-8")
    for name in ("python/text_writer.py", "java/", "kotlin/", "swift/", "cpp/", "android/"):
        assert f"samples/{name}" in readme, name
    assert CALLS[kind] in (made.samples / "README.md").read_text("utf-8")


@pytest.mark.parametrize("kind", OPTIONS)
def test_python_writes_what_the_package_wrote_and_says_where_not(
    kind: str, phone_writer: Writers, tmp_path: Path
) -> None:
    made = phone_writer(kind)
    sample, n = made.samples / "python" / "text_writer.py", len(made.recorded())
    done = run(sys.executable, sample, made.package, "--selftest")
    assert (done.returncode, f"{n} of {n} recorded texts" in done.stdout) == (0, True), (
        done.stdout + done.stderr[-1500:]
    )
    text, _, _, written = next(row for row in made.recorded() if row[0].isascii() and row[0])
    assert run(sys.executable, sample, made.package, text).stdout.startswith(written.split("\\n")[0])
    long = run(sys.executable, sample, made.package, LONG)
    assert long.returncode == 1
    assert "tokens; this model.tflite takes" in long.stderr
    assert len(long.stderr.splitlines()) < 3
    verify(made.package)  # nothing was left in it, not even by Python's cache
    other = copy_with(made, tmp_path / "other", another_token)
    assert run(sys.executable, sample, other, "--selftest").returncode == 1


def test_pythons_sample_needs_numpy_and_the_interpreter_alone(phone_writer: Writers) -> None:
    made = phone_writer("gpt2")
    blocked = ("tokenizers", "transformers", "torch", "converter")
    code = (
        "import sys, runpy\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(made.samples / 'python')!r})\n"
        f"sys.argv = ['text_writer.py', {str(made.package)!r}, '--selftest']\n"
        f"runpy.run_path({str(made.samples / 'python' / 'text_writer.py')!r}, run_name='__main__')\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr[-1500:]


@pytest.mark.parametrize(
    ("change", "said"),
    [(another_token, "is not that of the golden vectors"), (lambda row: ["other", *row[1:]], "the manifest says")],
)
def test_verify_holds_the_recorded_texts_to_the_golden_vectors(
    change: Callable[[list[str]], list[str]], said: str, phone_writer: Writers, tmp_path: Path
) -> None:
    package = copy_with(phone_writer("marian"), tmp_path / "other", change)
    forge(package)
    with pytest.raises(PackageDamaged, match=said):
        verify(package)


def test_a_recorded_text_may_hold_what_unicode_calls_a_line_end(phone_writer: Writers, tmp_path: Path) -> None:
    source = load_source(str(phone_writer("gpt2").model))
    ids = [np.array(source.tokenizer(text)["input_ids"]) for text in ("one\u2028two\x85three", "\x0b\x1c\r\n\t\\")]
    known = tuple({"input_ids": a, "written": b} for a, b in (ids, ids[::-1]))
    texts = [source.tokenizer.decode(known[i]["input_ids"]) for i in range(2)]
    golden = Golden(tuple(map(Example, texts)), known, ({}, {}), ({}, {}), {})
    assert write_recorded(golden, source, tmp_path, None) == 2
    shipped: Any = SimpleNamespace(
        golden=golden, tokenizer=source.tokenizer, manifest=SimpleNamespace(beside={"golden_texts": 2})
    )
    check_recorded(shipped, tmp_path / "golden.tsv")


class OtherTables(DeviceTokenizer):
    """Tables that read one text as another, as the gate allows of one in a hundred."""

    def encode(self, text: str, *others: Any, **named: Any) -> Any:
        return super().encode("another" if text == "cold rain" else text, *others, **named)


def test_a_text_that_the_tables_read_otherwise_is_not_recorded_for_the_samples(
    phone_writer: Writers, tmp_path: Path
) -> None:
    made = phone_writer("gpt2")
    source = load_source(str(made.model))
    texts = [Example("cold rain"), Example("warm rain")]
    known = tuple(
        {"input_ids": np.array(source.tokenizer(e.text)["input_ids"]), "written": np.array([3])} for e in texts
    )
    golden = Golden(tuple(texts), known, ({}, {}), ({}, {}), {})
    for tables, n in ((DeviceTokenizer(made.assets), 2), (OtherTables(made.assets), 1), (None, 2)):
        assert write_recorded(golden, source, tmp_path, tables) == n
    with pytest.raises(StageFailed, match=r"text_writer.py that was written for this package does not answer"):
        try_sample(made.samples / "python" / "text_writer.py", copy_with(made, tmp_path / "other", another_token))


def test_verify_holds_the_tables_to_the_tokenizer(phone_writer: Writers, tmp_path: Path) -> None:
    package = tmp_path / "other"
    shutil.copytree(phone_writer("marian").package, package)
    table = package / "samples" / "assets" / "parity.tsv"
    assert lines_of(table) > 50
    table.write_bytes(table.read_bytes().split(b"\n", 1)[1])
    forge(package)
    with pytest.raises(PackageDamaged, match=r"parity.tsv is not what tokenizer.json gives"):
        verify(package)


@pytest.mark.parametrize("kind", OPTIONS)
def test_cpp_writes_what_the_package_wrote_and_says_where_not(kind: str, phone_writer: Writers, tmp_path: Path) -> None:
    made = phone_writer(kind)
    demo, model, n = build_demo(made.samples, tmp_path), made.package / "model.tflite", len(made.recorded())
    done = run(demo, "--selftest", model, made.assets)
    assert done.returncode == 0, done.stdout + done.stderr[-500:]
    hard = lines_of(made.assets / "parity.tsv")
    assert f"tokenizer: {hard} of {hard} texts get the recorded ids" in done.stdout
    assert f"model: {n} of {n} recorded texts come out the same" in done.stdout
    long = run(demo, model, made.assets, LONG)
    assert (long.returncode, "tokens; this model.tflite takes 1 to" in long.stderr) == (1, True)
    other = copy_with(made, tmp_path / "other", another_token)
    assert run(demo, "--selftest", model, other / "samples" / "assets").returncode == 1


NAMES = {"gpt2": ("TextGenerator", -1), "marian": ("TextTranslator", None)}


@pytest.fixture(scope="module")
def classes(phone_writer: Writers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Java samples, compiled at once: each kind in a package of its own, with the program that drives it."""
    sources, out = tmp_path_factory.mktemp("java"), tmp_path_factory.mktemp("classes")
    for kind, (name, _) in NAMES.items():
        (sources / kind).mkdir()
        drive = (PROGRAMS / "Drive.java").read_text("utf-8").replace("CLASS", name).replace("CALL", CALLS[kind])
        samples = phone_writer(kind).samples
        activity = samples.glob("android/app/src/main/java/**/*.java")
        texts = {f.name: f.read_text("utf-8") for f in (*(samples / "java").iterdir(), *activity)}
        for file, text in {**texts, "Drive.java": drive}.items():
            own = text.replace(f"package {PACKAGE};", f"package made.{kind};").replace(
                "package made;", f"package made.{kind};"
            )
            (sources / kind / file).write_text(own, "utf-8")
    files = [*sources.rglob("*.java"), *STUBS.rglob("*.java")]
    done = run(compiler("javac"), "-Xlint:all", "-Werror", "--release", "8", "-Xlint:-options", "-d", out, *files)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def java(classes: Path, *command: object) -> "subprocess.CompletedProcess[str]":
    return run(compiler("java"), "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-cp", classes, *command)


@pytest.mark.parametrize("kind", OPTIONS)
def test_java_and_the_screen_read_spell_and_drive_the_cache_as_the_package_did(
    kind: str, phone_writer: Writers, classes: Path, tmp_path: Path
) -> None:
    made, n = phone_writer(kind), len(phone_writer(kind).recorded())
    done = java(classes, f"made.{kind}.SelfTest", made.assets)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"texts: {n} of {n} recorded texts are read and spelled alike" in done.stdout
    cache = OPTIONS[kind][1]["cache"]
    begins = -1 if kind == "gpt2" else start_of(made)
    done = java(
        classes, f"made.{kind}.Drive", made.assets, cache, begins, "recorded", app_assets(made, tmp_path / "app")
    )
    assert (done.returncode, f"{n} of {n} texts are written as recorded" in done.stdout) == (0, True), done.stderr
    assert java(classes, f"made.{kind}.Drive", made.assets, cache, begins, "shifted", "-").returncode == 1
    other = copy_with(made, tmp_path / "other", lambda row: [*row[:4], f"{row[4]}x"])
    assert java(classes, f"made.{kind}.SelfTest", other / "samples" / "assets").returncode == 1


def app_assets(made: PhoneWriter, folder: Path) -> Path:
    """Lay out what the build of the Android project copies into an app."""
    folder.mkdir()
    build = (made.samples / "android" / "app" / "build.gradle.kts").read_text("utf-8")
    for path in (made.package / "model.tflite", made.assets / "tokenizer.txt", made.assets / "vocab.txt"):
        assert f'"{path.name}"' in build
        shutil.copy(path, folder)
    return folder


def start_of(made: PhoneWriter) -> int:
    import json

    return int(json.loads((made.package / "generation_config.json").read_text("utf-8"))["decoder_start_token_id"])


RULES: dict[str, tuple[GenerationSettings, str, str]] = {
    "repetition": (
        GenerationSettings(repetition_penalty=1.3, no_repeat_ngram=2),
        "rules.repetitionPenalty = 1.3f; rules.noRepeat = 2;",
        "rules.repetition_penalty = 1.3f; rules.no_repeat = 2;",
    ),
    "words": (
        GenerationSettings(bad_words=((3,), (4, 5), (1, 2, 6)), suppressed=(7,), suppressed_first=(8, 2)),
        (
            "rules.forbidden = new int[][] {{3}, {4, 5}, {1, 2, 6}}; rules.suppressed = new int[] {7};"
            "rules.suppressedFirst = new int[] {8, 2};"
        ),
        "rules.forbidden = {{3}, {4, 5}, {1, 2, 6}}; rules.suppressed = {7}; rules.suppressed_first = {8, 2};",
    ),
    "ends": (
        GenerationSettings(eos_ids=(0, 9), min_length=4, min_new_tokens=3, forced_bos_id=5, forced_eos_ids=(9, 0)),
        (
            "rules.ends = new int[] {0, 9}; rules.minLength = 4; rules.minNew = 3; rules.second = 5;"
            "rules.last = new int[] {9, 0};"
        ),
        "rules.ends = {0, 9}; rules.min_length = 4; rules.min_new = 3; rules.second = 5; rules.last = {9, 0};",
    ),
}
"""Settings, and the same in the samples' own words."""


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("language", ["java", "cpp"])
def test_the_next_token_is_chosen_by_the_rules_of_this_tool(name: str, language: str, tmp_path: Path) -> None:
    settings, in_java, in_cpp = RULES[name]
    random, rows, wanted = np.random.default_rng(4), [], []
    for _ in range(300):
        prompt, total = int(random.integers(1, 4)), 12
        given = random.integers(0, 10, int(random.integers(prompt, total)))
        scores = np.round(random.normal(size=10), 2).astype(np.float32)
        rows.append(f"{prompt} {total} | {' '.join(map(str, given))} | {' '.join(f'{s:.2f}' for s in scores)}")
        for rule in scoring_rules(settings, prompt, total, np.zeros(1, np.int64)):
            scores = rule(given[None], scores[None].copy())[0]
        wanted.append(int(scores.argmax()))
    command = chooser(language, in_java if language == "java" else in_cpp, tmp_path)
    done = subprocess.run(command, input="\n".join(rows), capture_output=True, text=True, check=False)
    assert [int(line) for line in done.stdout.split()] == wanted, done.stderr[-1000:]


def chooser(language: str, rules: str, folder: Path) -> list[str]:
    """Compile the program that chooses by rules; returns the command that runs it."""
    if language == "cpp":
        (folder / "choose.cpp").write_text((PROGRAMS / "choose.cpp").read_text("utf-8").replace("RULES", rules))
        include, strict = ("-I", TEMPLATES / "cpp"), ("-std=c++17", "-Wall", "-Wextra", "-Werror")
        done = run(compiler("g++"), *strict, *include, folder / "choose.cpp", "-o", folder / "choose")
        assert done.returncode == 0, done.stderr[-2000:]
        return [str(folder / "choose")]
    source = (TEMPLATES / "java" / "Rules.java").read_text("utf-8").replace("{{ package }}", "made")
    (folder / "Rules.java").write_text(source)
    (folder / "Choose.java").write_text((PROGRAMS / "Choose.java").read_text("utf-8").replace("RULES", rules))
    done = run(compiler("javac"), "-d", folder, folder / "Rules.java", folder / "Choose.java")
    assert done.returncode == 0, done.stderr[-2000:]
    return [compiler("java"), "-XX:TieredStopAtLevel=1", "-cp", str(folder), "made.Choose"]


@pytest.mark.slow
def test_kotlin_compiles(phone_writer: Writers, classes: Path, tmp_path: Path) -> None:
    kotlinc = compiler("kotlinc")
    for kind in OPTIONS:
        text = (phone_writer(kind).samples / "kotlin" / "OpenModel.kt").read_text("utf-8")
        (tmp_path / f"{kind}.kt").write_text(text.replace(f"package {PACKAGE}", f"package made.{kind}"), "utf-8")
    out = tmp_path / "out.jar"
    done = run(kotlinc, *sorted(tmp_path.glob("*.kt")), "-cp", f"{classes}{os.pathsep}", "-d", out)
    assert done.returncode == 0, done.stderr[-2000:]


def test_samples_end_where_the_package_ends_that_counts_the_prompt(phone_writer: Writers, tmp_path: Path) -> None:
    made = phone_writer("gpt2")
    source = load_source(str(made.model))
    task: Any = source.task
    task.settings = replace(task.settings, max_length=20, max_new_tokens=None, eos_ids=())
    for name in ("model.tflite", "tokenizer.json"):
        shutil.copy(made.package / name, tmp_path)
    shutil.copytree(made.assets, tmp_path / "samples" / "assets")
    runner: Any = Tflite().open(tmp_path, source.specs)
    facts = writer_facts(source, runner, runtime=least_runtime(tmp_path))
    write_samples(facts, tmp_path / "samples")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'samples' / 'python')!r}); from text_writer import *\n"
        f"writer = TextGenerator(Path({str(tmp_path)!r}))\n"
        "print(len(list(writer.write_ids([3, 4, 5]))), len(list(writer.write_ids([3] * 19))), writer.encode(''))\n"
        "list(writer.write_ids([3] * 20))"
    )
    done = run(sys.executable, "-c", code)
    prompt = {"input_ids": np.array([[3, 4, 5]]), "attention_mask": np.ones((1, 3), np.int64)}
    (whole,) = generate(runner.run, source.specs, prompt, task.settings).texts(task.settings)
    first = source.task.encode(source.tokenizer, Example(""), 40).inputs["input_ids"].tolist()
    assert done.stdout == f"{len(whole)} 1 {first}\n"
    assert (len(whole), "with its answer it has 20: say how many" in done.stderr) == (17, True)
    samples = tmp_path / "samples"
    done = run(
        compiler("g++"), "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", samples / "cpp" / "main.cpp"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    java_files = [*(samples / "java").iterdir(), *samples.glob("android/app/src/**/*.java"), *STUBS.rglob("*.java")]
    done = run(compiler("javac"), "-Xlint:all", "-Werror", "-d", tmp_path / "out", *java_files)
    assert done.returncode == 0, done.stderr[-2000:]


CHAT = "{% for m in messages %}({{ m.role }}) {{ m.content }} {% endfor %}(assistant)"


def test_a_message_gets_its_ids_as_the_readme_of_a_chat_model_says(phone_writer: Writers, tmp_path: Path) -> None:
    made = phone_writer("gpt2")
    source = load_source(str(made.model))
    tokenizer: Any = source.tokenizer
    mark = tokenizer.eos_token
    first = TemplateProcessing(single=f"{mark} $A", special_tokens=[(mark, tokenizer.eos_token_id)])
    tokenizer.backend_tokenizer.post_processor = first
    tokenizer.chat_template = mark + CHAT
    for name in ("model.tflite", "tokenizer.json"):
        shutil.copy(made.package / name, tmp_path)
    WriterFiles(tmp_path).write_tokenizer(source)
    runner: Any = Tflite().open(tmp_path, source.specs)

    def readme() -> str:
        write_samples(writer_facts(source, runner, runtime=least_runtime(tmp_path)), tmp_path / "samples")
        return " ".join((tmp_path / "samples" / "README.md").read_text("utf-8").split())

    said = readme()
    assert "This model was taught to chat" in said
    assert f"around a message yourself, without the `{mark}` that it may begin with" in said
    assert LITERTLM_FILE not in said
    (tmp_path / LITERTLM_FILE).touch()
    assert f"or use `../{LITERTLM_FILE}`, which has the template inside" in readme()
    message = tokenizer.apply_chat_template(
        [{"role": "user", "content": "cold rain"}], add_generation_prompt=True, tokenize=False
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'samples' / 'python')!r}); from text_writer import *\n"
        f"writer = TextGenerator(Path({str(tmp_path)!r}))\n"
        f"print(writer.encode({message.removeprefix(mark)!r}))"
    )
    done = run(sys.executable, "-c", code)
    assert done.stdout == f"{chat_ids(tokenizer, 'cold rain')}\n", done.stderr[-1000:]
    tokenizer.chat_template = None
    assert "chat" not in readme()


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_tokenizer_without_tables_gets_samples_that_take_ids(
    kind: str, phone_writer: Writers, tmp_path: Path
) -> None:
    made = phone_writer(kind)
    source = load_source(str(made.model))
    # The tables have no form for a token that matches whole words alone.
    odd = AddedToken("odd", single_word=True, normalized=False)
    source.tokenizer.backend_tokenizer.add_tokens([odd])
    files = WriterFiles(tmp_path)
    for name in ("model.tflite", "tokenizer.json"):
        shutil.copy(made.package / name, tmp_path)
    files.write_tokenizer(source)
    check, known = files.check(source, Reference((), (), {}, {}, None), 40)
    assert check.status is Status.NOT_RUN
    assert "its samples take token ids" in check.detail
    runner: Any = Tflite().open(tmp_path, source.specs)
    kept = files.complete(source, read_golden(made.package), runner, known)
    assert "matches whole words only" in kept["why_not"]
    assert kept["golden_texts"] >= len(made.recorded())
    assert not (tmp_path / "samples" / "android").exists()
    readme = " ".join((tmp_path / "samples" / "README.md").read_text("utf-8").split())
    assert "**These samples take and give token ids**" in readme
    assert "It takes and gives token ids" in files.usage(source)
    samples, n = tmp_path / "samples", kept["golden_texts"]
    python = samples / "python" / "text_writer.py"
    done = run(sys.executable, python, tmp_path, "--selftest")
    assert (done.returncode, f"{n} of {n} recorded texts" in done.stdout) == (0, True), done.stdout + done.stderr
    assert run(sys.executable, python, tmp_path, "7", "9").stdout.split()
    assert run(sys.executable, python, tmp_path, *["7"] * 99).stderr.startswith("error: the ")
    done = run(build_demo(samples, tmp_path), "--selftest", tmp_path / "model.tflite", samples / "assets")
    assert (done.returncode, f"model: {n} of {n} recorded texts" in done.stdout) == (0, True), done.stdout
    java_files = [*(samples / "java").iterdir(), *STUBS.rglob("*.java")]
    done = run(compiler("javac"), "-Xlint:all", "-Werror", "-d", tmp_path / "out", *java_files)
    assert done.returncode == 0, done.stderr[-2000:]
