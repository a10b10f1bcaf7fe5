"""The same bytes, whatever the folder, the number of threads, the hash seed and what else is in the environment.

    python benchmarks/same_bytes.py MODEL [--rebuilds 5] [--target NAME=PRECISION …]

One run makes the packages; every rebuild (`plm-export rebuild --check`) is a process of its own in another folder, with
another number of threads, hash seed, user name and size of the environment, and reads the model from a copy under
another path. Adds to `benchmarks/results/same_bytes.json`; exits 1 where a byte differed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _measure import ROOT, commit, known, machine, save

TARGETS = ("cpu-int8=dynamic", "tflite=dynamic", "ort-gpu=fp16")
MAIN = "import sys; from converter.commands.cli import main; sys.argv[0] = 'plm-export'; main()"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rebuilds", type=int, default=5)
    parser.add_argument("--target", action="append", metavar="NAME=PRECISION")
    parser.add_argument("--export", action="append", default=[], metavar="FLAG", help="Handed to the first run.")
    parser.add_argument("--name", help="Of the row in the results; default: the model's.")
    given = parser.parse_args()
    rows: dict[str, Any] = {}
    for target, row in measure(given.model.resolve(), given.target or list(TARGETS), given.rebuilds, given.export):
        rows[target] = row
        print(target, json.dumps(row), flush=True)
        models = known("same_bytes").get("models", {})
        name = given.name or given.model.name
        before = models.get(name, {}).get("packages", {})
        models[name] = {"packages": before | {t: {**r, "commit": commit()} for t, r in rows.items()}}
        save("same_bytes", {"machine": machine(), "models": models})
    return 1 if any(row["equal"] < row["rebuilds"] for row in rows.values()) else 0


def measure(model: Path, targets: list[str], rebuilds: int, more: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Export once, and make each package again `rebuilds` times; yields each target with its row."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        out = root / "out"
        flags = [word for t in targets for word in ("--target", t.partition("=")[0], "--quantize", t)]
        made = _run([str(model), *flags, *more, "-o", str(out)], root, {})
        for target in (t.partition("=")[0] for t in targets):
            if not (out / target / "manifest.json").is_file():
                yield target, {"rebuilds": rebuilds, "equal": 0, "said": f"not made (exit code {made.returncode})"}
                continue
            yield target, _rebuilds(out / target, model, root, rebuilds)


def _rebuilds(package: Path, model: Path, root: Path, n: int) -> dict[str, Any]:
    equal, differing, seconds = 0, {}, []
    for i in range(n):
        place = root / f"{package.name}-{i}" / ("deeper/" * i)
        place.mkdir(parents=True)
        copy = Path(shutil.copytree(model, place / f"copy-{i}"))
        started = time.perf_counter()
        done = _run(["rebuild", str(package), str(copy), "--check", "--json"], place, _environment(i))
        seconds.append(round(time.perf_counter() - started, 1))
        table = json.loads(done.stdout) if done.stdout.startswith("{") else {"same": False, "error": done.stdout}
        equal += bool(table.get("same"))
        if not table.get("same"):
            differing[str(i)] = table.get("differing") or table.get("error")
        shutil.rmtree(root / f"{package.name}-{i}")
    return {"rebuilds": n, "equal": equal, "seconds": seconds, **({"differing": differing} if differing else {})}


def _environment(i: int) -> dict[str, str]:
    """Return an environment like no other run's: numbers of threads, hash seed, user, home, and its very size."""
    threads = str(1 + i % 4)
    return {
        "PYTHONHASHSEED": str(1000 + 17 * i),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "USER": f"user{i}",
        "LOGNAME": f"user{i}",
        "TZ": ("UTC", "Asia/Tokyo", "America/Lima")[i % 3],
        "FILLER": "x" * (997 * i),
    }


def _run(arguments: list[str], folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments, "-q"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
