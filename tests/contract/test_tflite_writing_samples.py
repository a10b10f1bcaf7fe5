"""The samples of a package that writes text on a phone compile, run, and write what the package wrote."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from converter.api import verify
from converter.errors import PackageDamaged
from converter.validate.checks import Status
from tests.contract.device_packages import lines_of, run
from tests.contract.phone_writers import OPTIONS, PhoneWriter
from tests.manifests import forge

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

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
    for name in ("python/text_writer.py", "java/", "kotlin/", "swift/", "cpp/"):
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


def test_verify_holds_the_tables_to_the_tokenizer(phone_writer: Writers, tmp_path: Path) -> None:
    package = tmp_path / "other"
    shutil.copytree(phone_writer("marian").package, package)
    table = package / "samples" / "assets" / "parity.tsv"
    assert lines_of(table) > 50
    table.write_bytes(table.read_bytes().split(b"\n", 1)[1])
    forge(package)
    with pytest.raises(PackageDamaged, match=r"parity.tsv is not what tokenizer.json gives"):
        verify(package)
