"""Folders of many kinds, as their owner's library reads them and as we do; and what the comparison costs an export.

    python benchmarks/owner_library.py [--only WORD] [--no-cost]

Every folder (`tests/owner_folders.py`) is made by sentence-transformers' or transformers' own classes, loaded as the
product loads it, and held to that library, which is called here once more without our code (`tests/owner_sweep.py`).
Wanted: each answers with cosine >= 0.9999, or is refused by name where `MAY_BE_REFUSED` says why. The cost is that of
`sample:minilm` for `cpu-int8`.
Writes `benchmarks/results/owner_library.json`.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _measure import ROOT, known, machine, run, save

sys.path.insert(0, str(ROOT))
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}

WANTED = {
    "cosine": 0.9999,
    "wrong": 0,
    "internal_errors": 0,
    "refused_share_at_most": 0.1,
    "refused_without_leave": 0,
    "overhead_at_most": 0.10,
}
COST = """
import json, sys, time
import converter.pipeline as pipeline
from converter import convert
real, spent = pipeline.check_owner, {}
def timed(*given, **named):
    wall, cpu = time.perf_counter(), time.process_time()
    made = real(*given, **named)
    spent.update(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu, texts=made.n_texts)
    return made
pipeline.check_owner = timed
wall = time.perf_counter()
convert({"model": "sample:minilm", "targets": ["cpu-int8"]}, sys.argv[1])
# Python and the imports count too: a user waits for them.
print(json.dumps(spent | {"export_cpu_seconds": time.process_time(), "export_seconds": time.perf_counter() - wall}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="folders whose name holds this, beside what stands in the file")
    parser.add_argument("--no-cost", action="store_true", help="keep the cost that stands in the file")
    given = parser.parse_args()
    before = known("owner_library")
    table: dict[str, Any] = {"machine": machine(), "wanted": WANTED}
    rows = (before.get("folders", {}) if given.only else {}) | sweep(given.only)
    table |= {"counts": counts(rows), "folders": rows}
    cost_before = before.get("cost")
    table["cost"] = cost_before if given.no_cost and cost_before else cost()
    table["misses"] = misses(table)
    save("owner_library", table)
    print(json.dumps({"counts": table["counts"], "cost": table["cost"], "misses": table["misses"]}, indent=1))
    return 1 if table["misses"] else 0


def sweep(only: str | None) -> dict[str, Any]:
    from tests.owner_folders import FOLDERS, MAY_BE_REFUSED
    from tests.owner_sweep import fate

    logging.disable(logging.WARNING)
    rows = {}
    for name, make in FOLDERS.items():
        if only and only not in name:
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            found = fate(make(Path(work)))
        rows[name] = {
            "outcome": found.outcome,
            "cosine": None if found.cosine is None else round(found.cosine, 9),
            "check": found.check,
            "check_error": found.error,
            "said": found.said,
            "seconds": round(time.perf_counter() - started, 2),
            "may_be_refused": MAY_BE_REFUSED.get(name),
        }
        print(f"{found.outcome:15} {name:45} {found.cosine} {found.said[:300]}", flush=True)
    return rows


def counts(rows: dict[str, Any]) -> dict[str, int]:
    found = Counter(row["outcome"] for row in rows.values())
    names = ("right", "refused", "stopped", "wrong", "internal error")
    return {"folders": len(rows), **{name: found[name] for name in names}}


def cost() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as work:
        made = run(["-c", COST, str(Path(work) / "out")])
    found = json.loads(made.stdout.strip().splitlines()[-1])
    return {
        **{name: round(value, 2) for name, value in found.items()},
        "overhead": round(found["seconds"] / (made.seconds - found["seconds"]), 4),
        "overhead_cpu": round(found["cpu_seconds"] / (found["export_cpu_seconds"] - found["cpu_seconds"]), 4),
        "command_seconds": made.seconds,
    }


def misses(table: dict[str, Any]) -> list[str]:
    counted = table["counts"]
    made = [f"{counted[n]} {n}" for n in ("wrong", "internal error") if counted[n]]
    refused = {n: row for n, row in table["folders"].items() if row["outcome"] in {"refused", "stopped"}}
    if len(refused) > WANTED["refused_share_at_most"] * counted["folders"]:
        made.append(f"{len(refused)} of {counted['folders']} refused or stopped")
    made += [
        f"{name} is to be honoured, and was refused" for name, row in refused.items() if not row.get("may_be_refused")
    ]
    if table["cost"]["overhead_cpu"] > WANTED["overhead_at_most"]:
        made.append(f"the check costs {table['cost']['overhead_cpu']:.1%} of an export")
    return made


if __name__ == "__main__":
    sys.exit(main())
