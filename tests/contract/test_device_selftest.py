"""What a sample's self-test says can be trusted: NaN, missing numbers and missing texts fail in every language."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.device.facts import CLASS_NAMES, kind_of
from converter.device.samples import PACKAGE
from converter.graphs import MODEL
from tests.contract.device_packages import (
    KINDS,
    LENGTHS,
    MASKED,
    STUBS,
    Made,
    OfTorch,
    build_check,
    compiler,
    lstrip_tagger,
    make_package_files,
    python_sample,
    run,
)

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

DRIVE = """
package made;
import java.io.FileInputStream;
import java.nio.*;
import java.nio.file.*;
import java.util.*;
import org.tensorflow.lite.Interpreter;

/** Runs SelfTest.model with an interpreter that answers what golden.tsv holds, or NaN once in each text. */
public final class Drive {
    public static void main(String[] args) throws Exception {
        List<String[]> rows = new ArrayList<>();
        for (String line : Files.readAllLines(Paths.get(args[0], "golden.tsv"))) {
            if (line.startsWith("text\\t")) rows.add(line.split("\\t", -1));
        }
        Iterator<String[]> next = rows.iterator();
        Interpreter.size = Integer.parseInt(args[1]);
        Interpreter.model = (inputs, outputs) -> {
            String[] cells = next.next();
            for (int i = 7; i < cells.length; i += 3) {
                FloatBuffer to = (FloatBuffer) outputs.get(cells[i]);
                for (int k = 0; k < to.capacity(); k++) to.put(k, -1e30f);
                String[] known = cells[i + 2].split(" ");
                int at = 0;
                int place = 0;
                for (String run : cells[i + 1].split(" ")) {
                    String[] ends = run.split(":");
                    place = Integer.parseInt(ends[0]);
                    for (int k = 0; k < Integer.parseInt(ends[1]); k++) to.put(place++, Float.parseFloat(known[at++]));
                }
                if (args[2].equals("nan")) to.put(place - 1, Float.NaN);
            }
        };
        System.exit(SelfTest.model(NEW, new FileInputStream(args[0] + "/golden.tsv")) ? 0 : 1);
    }
}
"""
TOKENIZER = (
    'new Tokenizer(new FileInputStream(args[0] + "/tokenizer.txt"), new FileInputStream(args[0] + "/vocab.txt"))'
)
DAMAGES: dict[str, Callable[[list[str]], list[str]]] = {
    "NaN": lambda cells: [*cells[:-1], f"{cells[-1].rpartition(' ')[0]} nan".strip()],
    "one number less": lambda cells: [*cells[:-1], cells[-1].rpartition(" ")[0] or "0"],
    "one number more": lambda cells: [*cells[:-1], f"{cells[-1]} 0"],
    "no numbers": lambda cells: cells[:7],
    "another answer": lambda cells: [*cells[:6], f"{cells[6]}x", *cells[7:]],
}


@pytest.fixture(scope="module")
def lstrip(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Tags, with a token that takes the white space before it along, as MPNet's does."""
    source = lstrip_tagger(tiny("mpnet", "token-classification", num_labels=7, layers=1))
    with pytest.MonkeyPatch.context() as patch:
        _without_a_file(patch)
        return make_package_files(tmp_path_factory.mktemp("lstrip"), source, OfTorch(source), texts=MASKED)


def _without_a_file(patch: pytest.MonkeyPatch) -> None:
    from converter.device import package_files

    patch.setattr(package_files, "least_runtime", lambda _folder: {"model.tflite": "2.9.0"})
    patch.setattr(package_files, "inputs_in_order", lambda _folder: ("input_ids",))


def _rows(assets: Path) -> list[list[str]]:
    return [line.split("\t") for line in (assets / "golden.tsv").read_text("utf-8").split("\n")[:-1]]


def _damaged(assets: Path, to: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """Return a copy of the tables, with one text's row changed."""
    shutil.copytree(assets, to)
    rows = _rows(assets)
    at = next(i for i, row in enumerate(rows) if row[0] == "text")
    rows[at] = change(rows[at])
    (to / "golden.tsv").write_bytes("".join("\t".join(row) + "\n" for row in rows).encode())
    return to


def _numbers(source: TorchModel, width: int) -> int:
    """Return how many numbers an output has at the longest length."""
    return {"span": 1, "tags": width, "tokens": width, "mask": width}.get(kind_of(source), 0) * LENGTHS[-1] or width


@pytest.fixture(scope="module")
def java(every_kind: dict[str, Made], lstrip: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compile the Java samples of every kind, each with a program that runs its self-test."""
    folder, made = tmp_path_factory.mktemp("java"), {}
    sources: list[Path] = []
    for kind, of in {**every_kind, "lstrip": lstrip}.items():
        (folder / kind).mkdir()
        name = CLASS_NAMES[kind_of(of.source)]
        words = f"{TOKENIZER}, " if (of.samples / "java" / "Tokenizer.java").is_file() else ""
        drive = DRIVE.replace("NEW", f"new {name}(ByteBuffer.allocate(0), {words}1)")
        for file, text in (
            *((f.name, f.read_text("utf-8").replace(PACKAGE, "made")) for f in (of.samples / "java").iterdir()),
            ("Drive.java", drive),
        ):
            path = folder / kind / file
            path.write_text(text.replace("package made;", f"package made.{kind};"), encoding="utf-8")
            sources.append(path)
        made[kind] = folder / "out"
    done = run(
        compiler("javac"), "--release", "8", "-Xlint:-options", "-d", folder / "out", *sources, *STUBS.rglob("*.java")
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return made


def _java(java: dict[str, Path], kind: str, made: Made, assets: Path, how: str = "as recorded") -> tuple[int, str]:
    size = _numbers(made.source, int(made.runner.graphs[MODEL].outputs[0].shape[-1] or 0))
    done = run(compiler("java"), "-XX:TieredStopAtLevel=1", "-cp", java[kind], f"made.{kind}.Drive", assets, size, how)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_javas_self_test_of_the_model_passes_and_can_fail(
    kind: str, every_kind: dict[str, Made], java: dict[str, Path], tmp_path: Path
) -> None:
    made = every_kind[kind]
    assets = made.samples / "assets"
    n = sum(row[0] == "text" for row in _rows(assets))
    code, said = _java(java, kind, made, assets)
    assert (code, f"model: {n} of {n} texts as recorded; {n} of {n} answers the same" in said) == (0, True), said
    code, said = _java(java, kind, made, assets, "nan")
    assert (code, f"model: 0 of {n}" in said) == (1, True), said
    less = _damaged(assets, tmp_path / "less", DAMAGES["one number less"])
    assert _java(java, kind, made, less)[0] == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_javas_self_test_notices(
    damage: str, every_kind: dict[str, Made], java: dict[str, Path], tmp_path: Path
) -> None:
    made = every_kind["mask"]
    assert _java(java, "mask", made, _damaged(made.samples / "assets", tmp_path / "assets", DAMAGES[damage]))[0] == 1


def test_java_proves_nothing_by_a_table_without_texts(
    every_kind: dict[str, Made], java: dict[str, Path], tmp_path: Path
) -> None:
    for kind in ("mask", "classes"):
        assets = tmp_path / kind
        shutil.copytree(every_kind[kind].samples / "assets", assets)
        (assets / "golden.tsv").write_text("tolerance\t1\n", encoding="utf-8")
        done = run(compiler("java"), "-cp", java[kind], f"made.{kind}.SelfTest", assets)
        assert (done.returncode, "answers: 0 of 0" in done.stdout) == (1, True)


def _outputs(row: list[str], size: int) -> dict[str, np.ndarray]:
    made = {}
    for name, runs, numbers in zip(row[7::3], row[8::3], row[9::3], strict=True):
        values, known = np.full(size, -1e30, np.float32), np.array(numbers.split(), np.float32)
        places = np.concatenate([np.arange(int(b), int(b) + int(n)) for b, n in (r.split(":") for r in runs.split())])
        values[places] = known
        made[name] = values
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_pythons_comparison_can_fail(kind: str, every_kind: dict[str, Made]) -> None:
    made = every_kind[kind]
    near = python_sample(made).near
    size = _numbers(made.source, int(made.runner.graphs[MODEL].outputs[0].shape[-1] or 0))
    rows = _rows(made.samples / "assets")
    ranges = {row[1]: float(row[2]) for row in rows if row[0] == "range"}
    texts = [row for row in rows if row[0] == "text"]
    assert len(texts) > 4
    for row in texts:
        outputs = _outputs(row, size)
        assert near(row, outputs, ranges, 1e-4)
        first, last = (int(x) for x in row[8].split()[-1].split(":"))
        name = row[7]
        for place, value in (
            (first, np.nan),
            (first + last - 1, np.nan),
            (first, np.inf),
            (first, outputs[name][first] + 9),
        ):
            other = {n: v.copy() for n, v in outputs.items()}
            other[name][place] = value
            assert not near(row, other, ranges, 1e-4)
        assert not near(row, {**outputs, name: outputs[name][: first + last - 1]}, ranges, 1e-4)
        assert not near(row, {**outputs, "another": outputs[name]}, ranges, 1e-4)
        assert not near(row, {}, ranges, 1e-4)
        for damage in ("NaN", "one number less", "one number more", "no numbers"):
            assert not near(DAMAGES[damage](row), outputs, ranges, 1e-4), damage


def _check(made: Made, samples: Path, folder: Path, key: str = "serving_24") -> Path:
    model = CLASS_NAMES[kind_of(made.source)]
    flags = (f"-DMODEL={model}", *(["-DMASKS"] if model == "MaskFiller" else []), f'-DKEY="{key}"', "-DLENGTH=24")
    return build_check(samples, folder, f"{{-1,{made.runner.graphs[MODEL].outputs[0].shape[-1]}}}", *flags)


@pytest.fixture(scope="module")
def mask_check(every_kind: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ sample of `mask`, compiled once for both that try it: with the checks of memory it takes seconds."""
    return _check(every_kind["mask"], every_kind["mask"].samples, tmp_path_factory.mktemp("mask"))


@pytest.mark.parametrize("name", ["mask", "lstrip"])
def test_cpp_compares_as_it_says(
    name: str, every_kind: dict[str, Made], lstrip: Made, mask_check: Path, tmp_path: Path
) -> None:
    made = {**every_kind, "lstrip": lstrip}[name]
    check = mask_check if name == "mask" else _check(made, made.samples, tmp_path)
    done = run(check, made.samples / "assets", "answers")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("any_length", [False, True])
def test_cpp_gives_back_what_it_took_and_tries_again(
    any_length: bool, every_kind: dict[str, Made], mask_check: Path, tmp_path: Path
) -> None:
    made, check = every_kind["mask"], mask_check
    if any_length:
        check = _check(made, made.write(tmp_path / "any", lengths=(), any_up_to=24), tmp_path, "serving_up_to_24")
    done = run(check, made.samples / "assets", "memory")
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_token_that_takes_white_space_along_is_of_its_own_word(lstrip: Made, java: dict[str, Path]) -> None:
    assets = lstrip.samples / "assets"
    rows = [row for row in _rows(assets) if row[0] == "text"]
    # The source gives such words a tag that is not "O": else nothing would be shown.
    tags = {row[1]: row[6].split() for row in rows}
    assert any(
        tag != "O" for text, of in tags.items() for word, tag in zip(text.split(), of, strict=True) if word == "<mask>"
    )
    done = run(compiler("java"), "-cp", java["lstrip"], "made.lstrip.SelfTest", assets)
    assert (done.returncode, f"answers: {len(rows)} of {len(rows)}" in done.stdout) == (0, True), done.stdout
    module = python_sample(lstrip)
    tokenizer = module.Tokenizer.from_str(lstrip.source.tokenizer.backend_tokenizer.to_str())
    for row in rows:
        text = row[1].replace("\\t", "\t")
        outputs = _outputs(row, _numbers(lstrip.source, 7))
        made = module.TokenTagger.decode({"logits": outputs["logits"].reshape(-1, 7)}, tokenizer.encode(text), text)
        assert [tag.tag for tag in made] == row[6].split(), text


def test_swift_reads_the_table_alike(every_kind: dict[str, Made], tmp_path: Path) -> None:
    """No Swift compiler is at hand: what was wrong once is looked for in the text."""
    for kind, made in every_kind.items():
        text = (made.samples / "swift" / "SelfTest.swift").read_text("utf-8")
        assert "if !(abs(values[k] - wanted[at]) / range <= tolerance) { return false }" in text
        assert "if at == 0 || at != wanted.count { return false }" in text
        assert "if n == 0 { wrong.append(" in text
        assert ('let answer = ""' in text) == (kind in {"score", "embedding", "tokens", "library"})
    swift = (every_kind["tags"].write(tmp_path, lengths=(), any_up_to=24) / "swift" / "TokenTagger.swift").read_text(
        "utf-8"
    )
    assert swift.index("try runner.allocateTensors()") < swift.index("laidOut = length")
    assert "encoded.end[token] >= start" in swift
