"""`--resume`: a second run takes what is unchanged from the cache, and its packages are those of a run without one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.commands import cli
from converter.errors import UsageError
from converter.package.rebuilt import compare_packages
from tests.tiny import SENTENCES

COMPRESS = ("--trim", "vocabulary", "--prune", "structured:heads=0.5,ffn=0.5,steps=1", "--distill", "soft:steps=2")


@pytest.fixture
def export(tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{s}\n" for s in SENTENCES), encoding="utf-8")

    def run(out: str, *flags: str, precision: str = "none") -> dict[str, Any]:
        argv = [str(tiny()), *COMPRESS, "--calibration", str(texts), "--limit", "agreement=0", "-q"]
        argv += ["-t", "cpu-int8", "--quantize", precision, "-o", str(tmp_path / out), *flags]
        code = cli.run(argv)
        assert code in {0, 3}
        report: dict[str, Any] = json.loads((tmp_path / out / "report.json").read_text())
        return report

    return run


def cached(report: dict[str, Any]) -> list[bool]:
    return [r["cached"] for r in (*report["compress_records"], *report["targets"][0]["records"])]


def test_packages_made_from_the_cache_have_the_bytes_of_those_made_without(
    export: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    place = ("--cache", str(tmp_path / "cache"))
    assert cached(export("without")) == [False] * 4
    assert cached(export("cold", *place)) == [False] * 4
    assert cached(export("warm", *place)) == [True] * 4
    for out in ("cold", "warm"):
        folders = [tmp_path / name / _folder(tmp_path / name) for name in ("without", out)]
        found = compare_packages(*folders)
        assert found.same, found.sentence()
    # Another precision starts after what is common to both.
    assert cached(export("other", *place, precision="dynamic")) == [True] * 4 + [False]
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.suffix in {".pkl", ".pickle", ".pt", ".bin"}]


def _folder(out: Path) -> str:
    return next(p.name for p in out.iterdir() if p.is_dir() and p.name.startswith("cpu-int8"))


def test_a_cache_that_cannot_be_is_refused_before_any_work(
    tiny: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    for flags, said in (
        (("--cache", str(tmp_path / "file")), "is a file"),
        (("--cache-size", "5GB"), "no cache to limit"),
        (("--resume", "--cache-size", "5"), "a size with its unit"),
        (("--cache", "nosuch://x"), "cannot be opened"),
    ):
        assert cli.run([str(tiny()), "-o", str(tmp_path / "out"), *flags]) == UsageError.exit_code
        assert said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
