"""Thirty planted faults: does `explain` name the boundary and the layer?

    python benchmarks/explain.py [--only WORD] [--repairs]

Good packages of a tiny BERT are made once; each fault (`tests/planted.py`) is planted into a copy of one, or into the
steps that `explain` runs again. Writes `benchmarks/results/explain.json` after each fault: `--only` measures some
faults anew and keeps what is known of the others, and `--repairs` looks for repairs too. Exits 1 where fewer than 90 %
of the faults are named right, or a good package is called broken.
"""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from _measure import commit, known, machine, save

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from converter import convert  # noqa: E402
from converter.explain.package import explain_package  # noqa: E402
from converter.explain.walk import Explanation  # noqa: E402
from converter.model_folder.load import load_source  # noqa: E402
from converter.recipe import bind_recipe  # noqa: E402
from tests.planted import FAULTS, PRUNED, planted  # noqa: E402
from tests.tiny import SENTENCES, make_tiny  # noqa: E402

LEAST = 0.9
PRUNE = [{"stage": "prune.structured", "ffn": 0.13}]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--repairs", action="store_true")
    given = parser.parse_args()
    faults = [f for f in FAULTS if given.only in f.name]
    with tempfile.TemporaryDirectory() as work:
        model, packages = make(Path(work), {f.package for f in faults})
        good = {name: good_package(folder) for name, folder in packages.items()}
        print("good packages:", good, flush=True)
        rows = []
        for fault in faults:
            rows.append(measured(fault, packages[fault.package], model, Path(work), repair=given.repairs))
            keep(rows, good)
    right = sum(r["right"] for r in rows) / len(rows)
    print(f"{right:.1%} of {len(rows)} named right")
    return 1 if right < LEAST or any(good.values()) else 0


def keep(rows: list[dict[str, Any]], good: dict[str, str]) -> None:
    """Write what is measured now over what was before; faults that are no longer planted are dropped."""
    before = known("explain")
    made = {r["fault"]: r for r in (*before.get("rows", ()), *rows)}
    kept = [made[f.name] for f in FAULTS if f.name in made]
    table = {
        "machine": machine(),
        "commit": commit(),
        "faults": len(kept),
        "right": round(sum(r["right"] for r in kept) / len(kept), 3),
        "good_packages_called_broken": sorted(n for n, said in (before.get("good", {}) | good).items() if said),
        "good": before.get("good", {}) | good,
    }
    save("explain", table | {"rows": kept})


def good_package(folder: Path) -> str:
    try:
        found = explain_package(folder)
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return "stopped"
    if found.boundary:
        print(found.table(), flush=True)
    return found.boundary


def make(work: Path, wanted: set[str]) -> tuple[Any, dict[str, Path]]:
    """Export the packages that the faults are planted into; limits are wide, as the weights are drawn."""
    folder, texts = make_tiny(work / "model"), work / "texts.txt"
    texts.write_text("\n".join(SENTENCES), encoding="utf-8")
    made = {}
    for name in sorted(wanted):
        target, precision = name.split("=")
        recipe = {
            "model": str(folder),
            "targets": [target],
            "quantize": {target: precision},
            "calibration": str(texts),
            "compress": PRUNE if name == PRUNED else [],
            "limits": {"agreement": 0.7 if name == PRUNED else 0.9, "stability": 0.0},
        }
        out = work / name
        result = convert(bind_recipe(recipe), out)
        print(name, [(t.status, t.error) for t in result.targets], flush=True)
        made[name] = out / (result.targets[0].folder or target)
    return load_source(str(folder)), made


def measured(fault: Any, package: Path, model: Any, work: Path, *, repair: bool) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        with planted(fault, package, model, work) as folder:
            found = explain_package(folder, repair=repair)
    except Exception:  # noqa: BLE001 - one fault that stops `explain` is one that it does not name
        traceback.print_exc()
        found = Explanation("stopped")
    row = {
        "fault": fault.name,
        "boundary": found.boundary,
        "layer": found.layer,
        "repair": found.repair,
        "right": (found.boundary, found.layer) == (fault.boundary, fault.layer),
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
