"""Our packages beside the best peers', in one run of ../shared/bench/side_by_side.py: ratios, not milliseconds.

    python benchmarks/peers.py --python PEERS/bin/python [--peers FOLDER]

`--python` is the environment that ../shared/bench/README.md sets up (Optimum's exporter needs an old transformers), and
`--peers` where its packages are built once. Run it on an idle machine. Writes `benchmarks/results/peers.json`, where
the results of other CPUs stay: the ratios depend on what a CPU multiplies int8 with.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import SHARED, commit, instruction_sets, known, machine, plm_export, save

CASES = {
    "sst2": ("models/sst2-minilm", "data/sst2/train.tsv", "data/sst2/dev.tsv"),
    "stsb": (None, "data/stsb/train.csv", "data/stsb/dev.csv"),
}
"""Model (None: all-MiniLM-L6-v2 of the samples), calibration text, evaluation file."""

EXPORTS = {
    "cpu-int8": ("--target", "cpu-int8"),
    "tflite": ("--target", "tflite"),
    "tflite, a graph a length": ("--target", "tflite:graphs=separate"),
}
"""What of ours is timed: the defaults, and a file of fixed shapes alone."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="the peers' environment")
    parser.add_argument("--peers", type=Path, default=Path("~/.cache/plm-export-peers").expanduser())
    parser.add_argument("--task", choices=tuple(CASES), action="append")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    about = {"machine": machine(), "instruction_sets": instruction_sets(), "commit": commit(), "threads": given.threads}
    tables = {task: compare(task, given) for task in given.task or CASES}
    save("peers", {"machines": with_entry(known("peers").get("machines", []), about | {"tasks": tables})})
    return 0


def with_entry(entries: list[dict[str, Any]], made: dict[str, Any]) -> list[dict[str, Any]]:
    """Put an entry in the place of the one of its CPU, else behind the others."""
    cpus = [entry["machine"]["cpu"] for entry in entries]
    at = cpus.index(made["machine"]["cpu"]) if made["machine"]["cpu"] in cpus else len(cpus)
    return [*entries[:at], made, *entries[at + 1 :]]


def compare(task: str, given: argparse.Namespace) -> dict[str, Any]:
    model, calibration, evaluation = CASES[task]
    source = str(SHARED / model) if model else minilm()
    text = ("--calibration", str(SHARED / calibration), "--eval", str(SHARED / evaluation), "--quiet", "--json")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        ours = []
        for name, flags in EXPORTS.items():
            out = Path(folder) / name.replace(" ", "-")
            done = plm_export(source, *flags, "-o", str(out), *text)
            # A package that failed its gate is timed all the same: what it is worth stands beside its verdict.
            for made in json.loads(done.stdout)["targets"]:
                package = out / made["folder"]
                files = [*package.glob("onnx/model*.onnx"), *package.glob("model.tflite")]
                ours += [f"{name} {made['precision']}={file}" for file in files]
        command = [given.python, str(SHARED / "bench" / "side_by_side.py"), task, "--model", source]
        command += ["--peers", str(given.peers / task), "--threads", str(given.threads), "--json", str(table)]
        path = f"{Path(given.python).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            [*command, *(word for o in ours for word in ("--ours", o))], check=True, env={**os.environ, "PATH": path}
        )
        return dict(json.loads(table.read_text(encoding="utf-8")))


def minilm() -> str:
    import sample_models
    from converter.stage import SILENT

    return str(sample_models.folder("minilm", SILENT))


if __name__ == "__main__":
    sys.exit(main())
