"""The whole pipeline on a real model: one command, three packages, each figure of the README.

    python benchmarks/pipeline.py [--model FOLDER] [--eval FILE]

Writes `benchmarks/results/pipeline.json`. The limits of the claim stand in the table beside what was measured.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import SHARED, Run, machine, plm_export, save

TARGETS = ("tflite", "cpu-int8", "ort-gpu")
WANTED = {
    "seconds": 120,
    "peak_bytes": 4 * 10**9,
    "float32_agreement": 1.0,
    "int8_agreement": 0.985,
    "int8_drop": 0.005,
}
VARIANTS: dict[str, list[str]] = {
    "default": [],
    "float32": ["--quantize", "none"],
    "dynamic": ["--target", "cpu-int8", "--quantize", "dynamic"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(SHARED / "models" / "sst2-minilm"))
    parser.add_argument("--eval", default=str(SHARED / "data" / "sst2" / "dev.tsv"))
    given = parser.parse_args()
    table: dict[str, Any] = {"machine": machine(), "wanted": WANTED, "runs": {}}
    for name, flags in VARIANTS.items():
        table["runs"][name] = measure(given.model, given.eval, flags)
    table["misses"] = misses(table["runs"])
    save("pipeline", table)
    for miss in table["misses"]:
        print("not reached:", miss)
    return 1 if table["misses"] else 0


def measure(model: str, evaluation: str, flags: list[str]) -> dict[str, Any]:
    targets = [] if "--target" in flags else [word for t in TARGETS for word in ("--target", t)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        done = plm_export(model, *targets, *flags, "--eval", evaluation, "-o", str(out), "--json", "--quiet")
    return {**row_of(done), **report_rows(done.stdout)}


def row_of(done: Run) -> dict[str, Any]:
    return {"exit_code": done.exit_code, "seconds": done.seconds, "peak_bytes": done.peak_bytes}


def report_rows(text: str) -> dict[str, Any]:
    report = json.loads(text)
    source = report.get("source", {})
    return {
        "model": report.get("model"),
        "source": {"size_bytes": source.get("size_bytes"), "metric": source.get("metric")},
        "packages": {t["target"]: package_row(t) for t in report.get("targets", [])},
        **({"error": report["error"]} if "error" in report else {}),
    }


def package_row(target: dict[str, Any]) -> dict[str, Any]:
    evaluation = target.get("evaluation") or {}
    return {
        "precision": target["precision"],
        "status": target["status"],
        "size_bytes": target.get("size_bytes"),
        "agreement": evaluation.get("agreement"),
        "metric": evaluation.get("metric"),
        "milliseconds": evaluation.get("milliseconds"),
        "error": target.get("error"),
    }


def misses(runs: dict[str, Any]) -> list[str]:
    """Return what was claimed and not reached, as sentences."""
    made = [f"{name}: exit code {run['exit_code']}" for name, run in runs.items() if run["exit_code"] != 0]
    default = runs["default"]
    made += [f"default: {key} is {default[key]}" for key in ("seconds", "peak_bytes") if default[key] > WANTED[key]]
    for name, run in runs.items():
        for target, row in run["packages"].items():
            made += [f"{name} {target}: {text}" for text in package_misses(row, run["source"]["metric"] or {})]
    return made


def package_misses(row: dict[str, Any], source: dict[str, float]) -> list[str]:
    if row["agreement"] is None:
        return ["nothing was measured"]
    if row["precision"] in {"none", "fp16"}:
        wanted = WANTED["float32_agreement"] if row["precision"] == "none" else WANTED["int8_agreement"]
        return [f"agreement is {row['agreement']}"] if row["agreement"] < wanted else []
    made = [f"agreement is {row['agreement']}"] if row["agreement"] < WANTED["int8_agreement"] else []
    drop = source.get("accuracy", 0.0) - (row["metric"] or {}).get("accuracy", 0.0)
    return [*made, f"accuracy fell by {drop:.4f}"] if drop > WANTED["int8_drop"] else made


if __name__ == "__main__":
    sys.exit(main())
