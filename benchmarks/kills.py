"""`kill -9` of runs into an output folder: at random moments, and at every file-system call of the commit.

    python benchmarks/kills.py

The runs drive the output folder alone (`tests/kills.py`); what they make is small. Writes
`benchmarks/results/kills.json`; exits 1 where a file was lost, an output was neither old nor new, or a later
run did not go through.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import commit, machine, run, save

RANDOM_KILLS = 200


def main() -> int:
    found = {
        "random_moments": measure("--kills", str(RANDOM_KILLS), "--seed", "0"),
        "every_call_of_the_commit": measure(),
    }
    save("kills", {"machine": machine(), "commit": commit(), "file_system": file_system(), **found})
    return 1 if any(part["faults"] for part in found.values()) else 0


def measure(*arguments: str) -> dict[str, Any]:
    started = time.perf_counter()
    done = run(["-m", "tests.kills", *arguments])
    row = json.loads(done.stdout) | {"seconds": round(time.perf_counter() - started, 1)}
    print(row)
    return dict(row)


def file_system() -> str:
    """Return the kind of file system that temporary files lie on: renames and locks are its own."""
    folder = Path(tempfile.gettempdir()).resolve()
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    kinds = {mount[1]: mount[2] for mount in mounts}
    return next(kinds[str(p)] for p in (folder, *folder.parents) if str(p) in kinds)


if __name__ == "__main__":
    sys.exit(main())
