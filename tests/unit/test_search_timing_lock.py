"""Workers of a cluster time their packages one after the other where they share a machine."""

import itertools
import subprocess
import sys
from pathlib import Path

TIMES = """
import sys, time
from pathlib import Path
from converter.search.turns import no_two_at_once
for _ in range(5):
    with no_two_at_once(Path(sys.argv[1])):
        began = time.monotonic_ns()
        time.sleep(0.03)
        print(began, time.monotonic_ns())
"""


def test_no_two_processes_of_a_machine_time_at_once(tmp_path: Path) -> None:
    words = [sys.executable, "-c", TIMES, str(tmp_path)]
    running = [
        subprocess.Popen(words, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    told = [line.split() for process in running for line in process.communicate(timeout=60)[0].splitlines()]
    spans = sorted((int(began), int(ended)) for began, ended in told)
    assert len(spans) == 15
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(spans))


def test_a_lock_that_cannot_be_had_ends_no_trial(tmp_path: Path) -> None:
    from converter.search.turns import no_two_at_once

    with no_two_at_once(tmp_path / "nowhere"):
        pass
