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
import converter.timing.cold_start as cold
from converter.graphs import ENCODER_INPUTS, ModelFacts, encoder_graph

def held(size):
    return bytearray(b"x") * size

class Runner:
    def __init__(self, threads): self.kept = held(60_000_000)
    def run(self, graph, rows): return {}

# Whatever is imported takes 300 MB for a moment.
importlib.import_module = lambda name: held(300_000_000) and None
cold._package = lambda folder: ("runtime", encoder_graph(ModelFacts(tuple(ENCODER_INPUTS)), ()), Runner)
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
