"""A package's sample in Python is run as its user runs it, and leaves nothing behind."""

import sys
from pathlib import Path

import pytest

from converter.device import tried
from converter.device.tried import try_sample
from converter.errors import StageFailed


def sample(folder: Path, code: str, beside: str = "said = True") -> Path:
    folder.mkdir()
    (folder / "other_part.py").write_text(beside)
    (folder / "sample.py").write_text(f"from other_part import said\n\n\ndef selftest(folder):\n    {code}\n")
    return folder / "sample.py"


def test_each_package_has_modules_of_its_own(tmp_path: Path) -> None:
    path = list(sys.path)
    try_sample(sample(tmp_path / "good", "return said"), tmp_path)
    with pytest.raises(StageFailed, match="does not answer as the package does"):
        try_sample(sample(tmp_path / "bad", "return said", "said = False"), tmp_path)
    assert (sys.path, "other_part" in sys.modules, list(tmp_path.rglob("*.pyc"))) == (path, False, [])


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "return said / 0", "import sys; sys.exit('no model')"])
def test_a_sample_that_ends_ends_no_run(tmp_path: Path, code: str) -> None:
    with pytest.raises(StageFailed, match="ends in"):
        try_sample(sample(tmp_path / "bad", code), tmp_path)


def test_the_sample_of_a_large_package_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tried, "LARGEST", 1)
    try_sample(sample(tmp_path / "large", "raise SystemExit"), tmp_path)
