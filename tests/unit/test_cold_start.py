"""What a package costs is its own: memory that imports took and gave back before it was opened is not counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import importlib, json, sys
from pathlib import Path
from types import SimpleNamespace
import converter.timing.comparison, converter.timing.cold_start as cold, converter.package.manifest

def held(size):
    return bytearray(b"x") * size

class Runner:
    inputs = ()
    def __init__(self, threads): self.kept = held(60_000_000)
    def run(self, rows): pass

# Whatever is imported takes 300 MB for a moment.
importlib.import_module = lambda name: held(300_000_000) and None
converter.package.manifest.read_manifest = lambda folder: {"target": "none"}
converter.timing.comparison.random_feed = converter.timing.comparison.vocabulary_of = lambda *given: []
cold._opener = lambda folder: Runner
cold.CLEAR_REFS = Path(sys.argv[1])
print(json.dumps(cold.main(Path(), 1, 16, 1)))
"""


def _peak_mb(clear_refs: Path) -> float:
    done = subprocess.run([sys.executable, "-c", CHILD, str(clear_refs)], capture_output=True, check=True)
    return float(json.loads(done.stdout)["peak_mb"])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not Linux: the peak cannot be forgotten")
def test_the_peak_is_that_of_the_package_alone() -> None:
    assert 55 < _peak_mb(Path("/proc/self/clear_refs")) < 100


def test_where_the_peak_stays_the_imports_are_no_packages_memory(tmp_path: Path) -> None:
    assert _peak_mb(tmp_path / "absent" / "clear_refs") == 0
