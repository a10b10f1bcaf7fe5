"""The samples of a package compile, run and answer as the package did."""

import itertools
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from converter.bounds.source_code import prose
from converter.device import package_files
from converter.device.facts import CLASS_NAMES, DeviceFacts, kind_of
from converter.device.runtime import ANDROID, least_runtime, min_runtime_version
from converter.device.samples import PACKAGE, cpp_text, java_text, swift_text, write_samples
from converter.device.tables import NoTables
from converter.errors import StageFailed
from converter.tflite.builder import packed
from converter.tflite.file import has_four_bits, read_flat
from tests.contract.device_packages import KINDS, LENGTHS, STUBS, Made, build_demo, compiler, lines_of, run
from tests.tiny import SENTENCES

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

ANY = {"lengths": (), "any_up_to": 24}
BATCH = {"batch": 4}
NASTY = "a\"\"\"b ''' */ /* \\u000a \\u{0} $x ${y} {{z}} %s \n\r\u2028 c\\"
"""A folder may be called so, and a token nearly."""
IDLE = """
package made.classes
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit

class Empty : android.content.Context() {
    var asked = 0
    override fun getApplicationContext(): android.content.Context = this
    override fun getAssets(): android.content.res.AssetManager { asked++; throw IllegalStateException("no assets") }
}

fun main() {
    val unused = Empty()
    TextClassifierInBackground(unused).close()
    val empty = Empty()
    val model = TextClassifierInBackground(empty)
    val answered = CountDownLatch(2)
    var failures = 0
    for (i in 1..2) model.classify("text") { answer -> answer.onFailure { failures++ }; answered.countDown() }
    check(answered.await(20, TimeUnit.SECONDS)) { "no answer came" }
    model.close()
    check(failures == 2 && unused.asked == 0 && empty.asked > 0)
    println("sound")
}
"""


@pytest.fixture(scope="module")
def classes(every_kind: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All Java samples, of fixed lengths and of any, compiled at once: each kind in a package of its own."""
    sources, out = tmp_path_factory.mktemp("java"), tmp_path_factory.mktemp("classes")
    for kind, made in every_kind.items():
        other = made.write(tmp_path_factory.mktemp(kind), **ANY)
        for name, folder in ((kind, made.samples), (f"any_{kind}", other)):
            activity = [*folder.glob("android/app/src/main/java/**/*.java")]
            assert len(activity) == (kind != "library")
            for file in (*(folder / "java").iterdir(), *activity):
                (sources / name).mkdir(exist_ok=True)
                text = file.read_text(encoding="utf-8").replace(f"package {PACKAGE};", f"package made.{name};")
                (sources / name / file.name).write_text(text, encoding="utf-8")
    files = [*sources.rglob("*.java"), *STUBS.rglob("*.java")]
    done = run(compiler("javac"), "-Xlint:all", "-Werror", "--release", "8", "-Xlint:-options", "-d", out, *files)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_every_kind_of_model_has_a_class_of_its_own(every_kind: dict[str, Made]) -> None:
    kinds = {kind_of(made.source) for made in every_kind.values()}
    assert kinds == set(CLASS_NAMES)
    for made in every_kind.values():
        name = CLASS_NAMES[kind_of(made.source)]
        assert (made.samples / "swift" / f"{name}.swift").is_file()
        assert name in (made.samples / "kotlin" / "OpenModel.kt").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_java_cuts_text_and_reads_outputs_as_the_package_did(
    kind: str, every_kind: dict[str, Made], classes: Path
) -> None:
    assets = every_kind[kind].samples / "assets"
    done = run(compiler("java"), "-XX:TieredStopAtLevel=1", "-cp", classes, f"made.{kind}.SelfTest", assets)
    assert done.returncode == 0, done.stdout + done.stderr
    n = len((assets / "golden.tsv").read_text("utf-8").split("\ntext\t")) - 1
    assert f"answers: {n} of {n} recorded" in done.stdout
    if kind != "library":
        hard = lines_of(assets / "parity.tsv")
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
        assert run(compiler("java"), "-cp", classes, "made.classes.SelfTest", tmp_path / name).returncode == 1


@pytest.mark.slow
def test_kotlin_compiles_for_every_kind(every_kind: dict[str, Made], classes: Path, tmp_path: Path) -> None:
    kotlinc = compiler("kotlinc")
    for kind, made in every_kind.items():
        text = (made.samples / "kotlin" / "OpenModel.kt").read_text(encoding="utf-8")
        (tmp_path / f"{kind}.kt").write_text(text.replace(f"package {PACKAGE}", f"package made.{kind}"), "utf-8")
    nasty = every_kind["classes"].write(tmp_path / "nasty", model=NASTY)
    text = (nasty / "kotlin" / "OpenModel.kt").read_text(encoding="utf-8").replace(PACKAGE, "made.any_classes")
    (tmp_path / "nasty.kt").write_text(text, "utf-8")
    (tmp_path / "idle.kt").write_text(IDLE, "utf-8")
    jar = tmp_path / "out.jar"
    done = run(kotlinc, *sorted(tmp_path.glob("*.kt")), "-cp", classes, "-include-runtime", "-d", jar)
    assert done.returncode == 0, done.stderr[-2000:]
    # What fails is handed over, and what was never used is not opened to be closed.
    done = run(compiler("java"), "-cp", f"{jar}{os.pathsep}{classes}", "made.classes.IdleKt")
    assert done.stdout == "sound\n", done.stderr[-2000:]


@pytest.fixture(scope="module")
def demo(package: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo(package.samples, tmp_path_factory.mktemp("cpp"))


def test_cpp_runs_the_model_as_the_package_did(package: Made, demo: Path, tmp_path: Path) -> None:
    model, assets = package.folder / "model.tflite", package.samples / "assets"
    done = run(demo, "--selftest", model, assets)
    assert done.returncode == 0, done.stdout + done.stderr[-500:]
    hard = lines_of(assets / "parity.tsv")
    assert f"tokenizer: {hard} of {hard} texts get the recorded ids" in done.stdout
    assert "12 of 12 texts as recorded" in done.stdout
    assert "12 of 12 answers the same" in done.stdout
    [label, score] = run(demo, model, assets, SENTENCES[0]).stdout.strip().rsplit(" ", 1)
    assert label in package.source.task.labels
    assert 0 < float(score) <= 1
    # The self-test can fail: other numbers are noticed.
    shutil.copytree(assets, tmp_path / "assets")
    table = tmp_path / "assets" / "golden.tsv"
    table.write_text(table.read_text("utf-8").replace("\tlogits\t", "\tlogits\t9"), "utf-8")
    assert run(demo, "--selftest", model, tmp_path / "assets").returncode == 1


ARM64 = "PLM_EXPORT_LITERT_ARM64"
"""Environment variable: the folder with libLiteRt.so of the ai-edge-litert wheel for manylinux aarch64."""
CORTEX_A72 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
"""What Linux says of that core: qemu hands this machine's own /proc/cpuinfo on, in which LiteRT finds no ARM core."""


def test_cpp_cross_compiled_for_64_bit_arm_runs_the_model_as_the_package_did(package: Made, tmp_path: Path) -> None:
    """Debian's compiler for aarch64, and qemu's emulation of a user's program: embedded Linux without a board."""
    cross, main = compiler("aarch64-linux-gnu-g++"), package.samples / "cpp" / "main.cpp"
    strict = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror")
    done = run(cross, *strict, "-c", main, "-o", tmp_path / "main.o")
    assert done.returncode == 0, done.stderr[-2000:]
    if ARM64 not in os.environ:
        pytest.skip(f"compiled for aarch64, not linked or run: {ARM64} names no folder with its libLiteRt.so")
    library = Path(os.environ[ARM64]).resolve() / "libLiteRt.so"
    flags = (f"-Wl,-rpath,{library.parent}", "-Wl,--allow-shlib-undefined")
    done = run(cross, tmp_path / "main.o", library, *flags, "-o", tmp_path / "demo")
    assert done.returncode == 0, done.stderr[-2000:]
    model, assets = package.folder / "model.tflite", package.samples / "assets"
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text(CORTEX_A72 + CORTEX_A72.replace(": 0\n", ": 1\n", 1), "utf-8")
    (root / "lib").symlink_to("/usr/aarch64-linux-gnu/lib")
    emulated = (compiler("qemu-aarch64"), "-cpu", "cortex-a72", "-L", root, tmp_path / "demo")
    done = run(*emulated, "--selftest", model, assets)
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert "12 of 12 texts as recorded" in done.stdout
    assert "12 of 12 answers the same" in done.stdout
    # The twin: the self-test fails there too.
    shutil.copytree(assets, tmp_path / "assets")
    table = tmp_path / "assets" / "golden.tsv"
    table.write_text(table.read_text("utf-8").replace("\tlogits\t", "\tlogits\t9"), "utf-8")
    assert run(*emulated, "--selftest", model, tmp_path / "assets").returncode == 1


def test_cpp_compiles_for_every_kind(every_kind: dict[str, Made], tmp_path: Path) -> None:
    """All in one go, each kind in a namespace of its own: standard headers are what takes time to read."""
    lines = [f"#include <{name}>" for name in ("cmath", "cstdio", "exception", "fstream", "sstream")]
    for kind, cpp in _every_form(every_kind, tmp_path, "cpp").items():
        for path in cpp.glob("*.hpp"):
            shutil.copyfile(path, tmp_path / path.name)
        header = (cpp / "text_model.hpp").read_text("utf-8")
        own = header.replace("namespace plm {", f"namespace plm_{kind} {{ using namespace plm;")
        (tmp_path / f"{kind}.hpp").write_text(own, "utf-8")
        main = (cpp / "main.cpp").read_text("utf-8").replace("plm::", f"plm_{kind}::").splitlines()
        body = [line.replace("int main(", "int run(") for line in main if not line.startswith("#include")]
        lines += [f'#include "{kind}.hpp"', f"namespace main_{kind} {{", *body, "}"]
    (tmp_path / "all.cpp").write_text("\n".join(lines), "utf-8")
    done = run(compiler("g++"), "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", tmp_path / "all.cpp")
    assert done.returncode == 0, done.stderr[:2000]


def _every_form(every_kind: dict[str, Made], folder: Path, language: str) -> dict[str, Path]:
    """Return the samples of every kind for fixed lengths, for any length, and for several texts a call."""
    made = {kind: of.samples / language for kind, of in every_kind.items()}
    for name, changes in (("any", ANY), ("batch", BATCH)):
        made |= {f"{name}_{k}": of.write(folder / f"{name}_{k}", **changes) / language for k, of in every_kind.items()}
    return made


def test_python_runs_the_model_as_the_package_did(package: Made) -> None:
    sample = package.samples / "python" / "text_model.py"
    done = run(sys.executable, sample, package.folder, "--selftest")
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert "12 of 12 texts as recorded; 12 of 12 answers the same" in done.stdout


def test_pythons_sample_compiles_for_every_kind(every_kind: dict[str, Made], tmp_path: Path) -> None:
    for folder in _every_form(every_kind, tmp_path, "python").values():
        path = folder / "text_model.py"
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_the_readme_says_what_was_not_compiled_and_how_to_measure(package: Made) -> None:
    text = (package.samples / "README.md").read_text(encoding="utf-8")
    assert "**not compiled**" in text
    for length in LENGTHS:
        assert f"--signature_to_run_for=serving_{length} --input_layer=" in text
    assert min_runtime_version(package.folder / "model.tflite") in text
    assert "{{" not in text


def test_a_file_with_weights_of_4_bits_names_the_litert_that_it_needs(package: Made, tmp_path: Path) -> None:
    from ai_edge_litert.schema_py_generated import BlockwiseQuantizationT, QuantizationParametersT, TensorType

    def readme() -> str:
        text = package.write(tmp_path / "samples", runtime={"model.tflite": "2.21.0"}) / "README.md"
        return " ".join(text.read_text(encoding="utf-8").split())

    def android() -> str:
        return (tmp_path / "samples" / "android" / "app" / "build.gradle.kts").read_text("utf-8")

    read_by = "needs TensorFlow Lite 2.21.0 or later; "
    assert f"{read_by}of LiteRT, 1.3 or later." in readme()
    shutil.copyfile(package.folder / "model.tflite", tmp_path / "model.tflite")
    assert f"{read_by}of LiteRT, 1.3 or later." in readme()
    assert "litert:litert:1.4" in android()
    for blocks in (False, True):
        model = read_flat(package.folder / "model.tflite")
        tensor = next(t for t in model.subgraphs[-1].tensors if t.type == TensorType.FLOAT32)
        if blocks:
            details = BlockwiseQuantizationT(scales=1)
            tensor.quantization = QuantizationParametersT(details=details, detailsType=2)
        else:
            tensor.type = TensorType.INT4
        (tmp_path / "model.tflite").write_bytes(packed(model))
        assert has_four_bits(tmp_path / "model.tflite")
        assert f"{read_by}of LiteRT, 2.0 or later, for its weights of 4 bits: earlier ones refuse it." in readme()
        assert "`com.google.ai.edge.litert:litert` has to be 2.1.0 or later" in readme()
        assert "litert:litert:2.1.0" in android()
        assert least_runtime(tmp_path)[ANDROID] == "2.1.0"


def test_a_model_of_any_name_has_samples_that_compile(every_kind: dict[str, Made], tmp_path: Path) -> None:
    for kind in ("mask", "classes"):
        samples = every_kind[kind].write(tmp_path / kind, model=NASTY, mask_token=NASTY)
        path = samples / "python" / "text_model.py"
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
        java = [*(samples / "java").iterdir(), *STUBS.rglob("*.java")]
        done = run(compiler("javac"), "-d", tmp_path / "out", *java)
        assert done.returncode == 0, done.stderr[-2000:]
        strict = ("-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror")
        done = run(compiler("g++"), *strict, samples / "cpp" / "main.cpp")
        assert done.returncode == 0, done.stderr[-2000:]
        assert (samples / "README.md").read_text("utf-8").startswith("# Samples for a")


@pytest.mark.parametrize("name", [NASTY, 'a"""b', "a\\", '"', "*/", "/*", "*\\", "a\nb", "\ud800"])
def test_no_name_ends_a_comment_or_is_an_escape(name: str) -> None:
    assert not {'"', "\\", "\n"} & set(prose(name))
    assert not {"*/", "/*"} & {a + b for a, b in itertools.pairwise(prose(name))}
    assert prose(name).isprintable()
    assert prose("org/model-v1.2 (é)") == "org/model-v1.2 (é)"


def test_a_python_sample_that_does_not_compile_is_never_written(every_kind: dict[str, Made], tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"the sample python/text_model.py does not compile"):
        every_kind["classes"].write(tmp_path, signature='"')
    assert not (tmp_path / "python" / "text_model.py").exists()


def test_a_tokenizer_that_cuts_the_beginning_off_brings_no_tables(package: Made) -> None:
    import copy

    tokenizer = copy.copy(package.source.tokenizer)
    assert package_files.tables_of(replace(package.source, tokenizer=tokenizer)).vocabulary
    tokenizer.truncation_side = "left"
    with pytest.raises(NoTables, match="beginning"):
        package_files.tables_of(replace(package.source, tokenizer=tokenizer))


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
        own_tokenizer=False,
    )
    write_samples(facts, tmp_path)
    program = tmp_path / "labels.cpp"
    program.write_text(f"#include <cstdio>\nint main() {{ std::puts({cpp_text(label)}); }}\n", encoding="utf-8")
    assert run(compiler("g++"), "-Wall", "-Werror", program, "-o", tmp_path / "labels").returncode == 0
    assert run(tmp_path / "labels").stdout == label + "\n"
