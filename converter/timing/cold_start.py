"""What a package costs before it is warm: load time, first call and peak memory, each in a process of its own.

A process that has opened a file before has its pages, its kernels and its memory: only a fresh one tells what an app's
user waits for.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ExportError

if TYPE_CHECKING:
    from converter.graphs import GraphSpec
    from converter.target import Runner

WARM_RUNS = 5
"""Calls after the first, before the peak is read: buffers grow in the first few."""
SECONDS = 300
CLEAR_REFS = Path("/proc/self/clear_refs")
FORGET_PEAK = "5"


def cold_start(folder: Path, threads: int, length: int, batch: int = 1) -> dict[str, float]:
    """Return `load_ms`, `first_ms` and `peak_mb`, the memory above that of the runtime with nothing opened.

    Raises:
        ExportError: the process ended with an error, or did not end.

    """
    command = [sys.executable, "-m", "converter.timing.cold_start", str(folder), str(threads), str(length), str(batch)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)  # noqa: S603 - our own module
    except subprocess.TimeoutExpired:
        raise ExportError(f"opening and running it once took more than {SECONDS} s", where=str(folder)) from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ExportError(f"it does not open: {lines[-1] if lines else done.returncode}", where=str(folder))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(folder: Path, threads: int, length: int, batch: int) -> dict[str, float]:
    """Measure in this process, which has opened nothing yet."""
    import importlib

    from converter.generate.timed import TimedText
    from converter.graphs import BATCH, MODEL, SEQUENCE, run_graphs
    from converter.timing.writing import writes

    runtime, specs, opener = _package(folder)
    importlib.import_module(runtime)
    _forget_peak()
    before = _peak_bytes()
    started = time.perf_counter()
    runner = opener(threads)
    loaded = time.perf_counter()
    again: Callable[[], Any]
    asked = time.perf_counter()
    if writes(specs):
        again = TimedText(runner.run, specs, batch, length).step
    else:
        rows = specs[MODEL].dummy({BATCH: batch, SEQUENCE: length})
        again = partial(run_graphs, specs, runner.run, rows)
        again()
    answered = time.perf_counter()
    for _ in range(WARM_RUNS):
        again()
    return {
        "load_ms": round(1000 * (loaded - started), 3),
        "first_ms": round(1000 * (answered - asked), 3),
        "peak_mb": round(max(0, _peak_bytes() - before) / 1e6, 2),
    }


def _forget_peak() -> None:
    """Let the peak begin at what is resident now: imports reach higher, and that is not the package's.

    Where the system does not, the peak of the imports is what is subtracted: a package below it seems to take nothing,
    never more than it does.
    """
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text(FORGET_PEAK, encoding="ascii")


def _peak_bytes() -> int:
    """Return the highest resident size of this program: `getrusage` would count the process that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        found = next((line for line in lines if line.startswith("VmHWM:")), None)
        if found is not None:
            return int(found.split()[1]) * 1024
    from converter.stage import peak_memory_bytes

    return peak_memory_bytes()


def _package(folder: Path) -> "tuple[str, Mapping[str, GraphSpec], Callable[[int], Runner]]":
    """Return the runtime's module, the graphs, and what opens the model alone: no hashes are checked."""
    from converter.binding import bind
    from converter.package.manifest import read_manifest
    from converter.package.verify import read_specs
    from converter.registry import target_class

    manifest = read_manifest(folder)
    specs = read_specs(folder, manifest)
    target = bind(target_class(manifest["target"]), manifest.get("target_options", {}), "target_options")

    def opened(threads: int) -> "Runner":
        return target.open(folder, specs, threads)

    return target.runtime_module, specs, opened


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))))  # noqa: T201 - the parent reads it
