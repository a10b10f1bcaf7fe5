"""What the proof costs: seconds in which a run proves, beside those in which it exports.

    python benchmarks/proof_time.py [--model FOLDER]

One run with three targets, its parts timed from outside: the functions that prove are those that run without it, too.
Seconds of the wall and of the CPU are both kept, as the machine may be shared. Writes `results/proof_time.json`.
"""

import argparse
import contextlib
import importlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _measure import ROOT, SHARED, commit, known, machine, save

sys.path.insert(0, str(ROOT))

TARGETS = ("tflite", "cpu-int8", "ort-gpu")
WANTED = 0.25
"""Of the export's seconds, those that the whole proof may take at most."""
PARTS: tuple[tuple[str, str, str], ...] = (
    ("answers of the source", "converter.pipeline", "capture_reference"),
    ("owner's library", "converter.pipeline", "check_owner"),
    ("judging", "converter.validate.package_check", "evaluate_package"),
    ("golden vectors", "converter.package.golden", "record_golden"),
    ("sums of the weights", "converter.package.stored_sums", "sums_of"),
)
"""What proves: what it is called here, its module, its function."""
WITHIN: tuple[tuple[str, str, str], ...] = (
    ("answers of the package", "converter.validate.package_check", "compare_answers"),
    ("stability", "converter.validate.package_check", "check_stability"),
    ("speed", "converter.validate.package_check", "measure_speed"),
    ("speed by length", "converter.validate.package_check", "time_lengths"),
    ("as called", "converter.validate.contents", "check_as_called"),
    ("full lengths", "converter.validate.contents", "check_full_lengths"),
    ("embedding tables, weights", "converter.validate.package_check", "compare_weights"),
    ("noise", "converter.validate.contents", "check_noise"),
)
"""The same, of what judging consists of."""

GIVEN_UP = (
    "the source answers texts of equal lengths together, not each alone (float sums differ in the last bits)",
    "the owner's library is asked 24 ordinary texts alone, not 48, and the others in batches",
    "stability asks for 16 texts, not 200, where nothing moves by more than 0.001 of the range in any of them",
    "speed is timed on 6 to 48 texts until known within 5 %, or for 0.2 s, and on each until two turns are that near",
    "models that write in a large vocabulary are run in batches of two texts, not eight",
    "noise is measured on 32 texts, not 96",
    "full lengths: texts that were judged already, or that the source answered for another package, are not run again",
    "full lengths asks two texts of each length, not three",
    "the sweep runs 1024 token ids in batches of 2, not all words in batches of 4: sums of stored weights hold those",
)
"""Against the proof as it was before: each beside what is left of it."""
SPEEDS = ("speed", "speed by length")
"""Of judging, what tells how fast a package is, and not whether it is right."""
CLOCKS = ("wall", "cpu")

Spent = dict[str, list[float]]
"""Seconds of the wall and of the CPU, by part."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(SHARED / "models" / "sst2-minilm"))
    given = parser.parse_args()
    from converter.pipeline import run_recipe
    from converter.recipe import bind_recipe

    spent: Spent = {}
    proving = _Proving()
    for name, module, function in PARTS:
        _time(spent, name, module, function, proving)
    for name, module, function in WITHIN:
        _time(spent, name, module, function)
    before = (time.perf_counter(), time.process_time())
    with tempfile.TemporaryDirectory() as room:
        run_recipe(bind_recipe({"model": given.model, "targets": list(TARGETS)}), Path(room) / "out")
    whole = [time.perf_counter() - before[0], time.process_time() - before[1]]
    kept = {"before": known("proof_time").get("before"), "machine": machine(), "commit": commit()}
    save("proof_time", table_of(Path(given.model).name, whole, proving.spent, spent) | kept)


class _Proving:
    """Seconds in which at least one part of the proof is under way: parts run beside each other."""

    def __init__(self) -> None:
        self.spent = [0.0, 0.0]
        self._depth, self._since, self._lock = 0, (0.0, 0.0), threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._since = (time.perf_counter(), time.process_time())
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self.spent[0] += time.perf_counter() - self._since[0]
                self.spent[1] += time.process_time() - self._since[1]


def _time(spent: Spent, name: str, module: str, function: str, proving: _Proving | None = None) -> None:
    place = importlib.import_module(module)
    plain: Callable[..., Any] = getattr(place, function)

    def timed(*arguments: Any, **named: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            with proving or contextlib.nullcontext():
                return plain(*arguments, **named)
        finally:
            one = spent.setdefault(name, [0.0, 0.0])
            one[0] += time.perf_counter() - wall
            one[1] += time.process_time() - cpu

    setattr(place, function, timed)


def table_of(model: str, whole: list[float], proof: list[float], spent: Spent) -> dict[str, Any]:
    """Return the table: the proof over the rest of the run, by both clocks."""
    timing = [sum(spent.get(name, [0.0, 0.0])[i] for name in SPEEDS) for i in (0, 1)]
    ratio = [proof[i] / (whole[i] - proof[i]) for i in (0, 1)]
    row = {name: {"wall": round(w, 2), "cpu": round(c, 2)} for name, (w, c) in spent.items()}
    return {
        "model": model,
        "targets": list(TARGETS),
        "wanted": WANTED,
        "seconds": {"wall": round(whole[0], 1), "cpu": round(whole[1], 1)},
        "proof_seconds": {"wall": round(proof[0], 1), "cpu": round(proof[1], 1)},
        "proof_over_export": {"wall": round(ratio[0], 3), "cpu": round(ratio[1], 3)},
        "without_speed": {c: round((proof[i] - timing[i]) / (whole[i] - proof[i]), 3) for i, c in enumerate(CLOCKS)},
        "reached": ratio[0] <= WANTED,
        "parts": {name: row[name] for name, _, _ in PARTS if name in row},
        "judging": {name: row[name] for name, _, _ in WITHIN if name in row},
        "given_up": GIVEN_UP,
        "note": "exporting is all that is not proof: imports, loading, conversion, quantizing, writing, sealing; "
        "seconds of the CPU are this process's; parts run beside each other on two cores, so that they may add up to "
        "more than the proof takes; above 1 of load_before the machine has other work too",
    }


if __name__ == "__main__":
    main()
