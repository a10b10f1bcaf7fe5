"""Accuracy against measured speed of pruned int8 packages: ours, plain methods, and ours with one idea left out.

    python benchmarks/pruning.py [--data sst2 stsb] [--methods budget taylor …] [--speedups 1.5 2 3 4] [--texts 1024]

Every package is made by the command line as a user would, calibrated on the train split, judged on dev and on test:

- `budget`: `structured:speedup=…`, what we offer, without labels; its aims are checked here.
- `taylor`, `magnitude`: plain first-order (by labels, where there are any) and plain magnitude pruning, once, nothing
  fitted; heads and neurons at the one share that reaches the speed.
- `nofit`: what `budget` decided, without the least squares. `equal`: every layer loses the same share, fitted.
  `fisher`: heads and neurons compete by their Fisher information (no OBS, no search over widths), fitted.

Speed is the ratio of mean latencies to the unpruned package of the same precision, one text at a time at its own
length, one thread, all packages in turn in one process.

Rows are merged into `benchmarks/results/pruning.json`, and all of them drawn into `pruning.svg` beside it: a point can
be measured again. With `--work FOLDER` packages are kept, and taken where they are there.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _curves import Line, draw
from _measure import RESULTS, SHARED, machine, plm_export, save

from converter.graphs import MODEL

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.target import Runner

DENSE = "dense"
BUDGET = "budget"
TEXTS = 1024
"""For calibration, as many as are taken without asking; the aims of time and memory speak of 512."""
CURVES = ("budget", "taylor", "magnitude")
ABLATIONS = ("nofit", "equal", "fisher")
"""Measured at one speed alone unless asked for."""
METHODS = (DENSE, *CURVES, *ABLATIONS)
"""Rows of others are of an earlier version: they are dropped."""
ABLATED = "2"
TIMED = 100
ROUNDS = 7
WANTED = {
    "sst2": {"1.5": 0.870, "2": 0.868, "3": 0.860, "4": 0.845},
    "stsb": {"1.5": 0.862, "2": 0.855},
}
"""What `budget` should reach on dev."""
NEAR = 0.97
"""Of the speed that was asked for."""
WANTED_SECONDS, WANTED_BYTES = 240, 3 * 10**9
"""For pruning alone, on 2 cores, with 512 texts: twice as many are held to the same."""


@dataclass(frozen=True)
class Data:
    """A model and its three splits."""

    model: str
    train: Path
    dev: Path
    test: Path


DATA = {
    "sst2": Data(
        str(SHARED / "models" / "sst2-minilm"),
        *(SHARED / "data" / "sst2" / f"{s}.tsv" for s in ("train", "dev", "test")),
    ),
    "stsb": Data("sample:minilm", *(SHARED / "data" / "stsb" / f"{s}.csv" for s in ("train", "dev", "test"))),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=[*CURVES, *ABLATIONS], help="without: all of them")
    parser.add_argument("--speedups", nargs="+", default=["1.5", "2", "3", "4"])
    parser.add_argument("--texts", type=int, default=TEXTS, help="calibration texts")
    parser.add_argument("--work", type=Path, help="keep packages here, and take those that are there")
    given = parser.parse_args()
    file = RESULTS / "pruning.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"rows": {}}
    table["machine"] = machine()
    work = given.work or Path(tempfile.mkdtemp(prefix="pruning-"))
    for name in given.data:
        points = points_of(given.methods, given.speedups)
        rows = make(name, points, given.texts, work / name)
        known = {k: row for k, row in table["rows"].get(name, {}).items() if k.split()[0] in METHODS}
        table["rows"][name] = known | judge(DATA[name], rows, work / name)
        table["misses"] = misses(table["rows"])
        save("pruning", table)
        draw(RESULTS / "pruning.svg", lines_of(table["rows"]))
    if given.work is None:
        shutil.rmtree(work)
    for miss in table["misses"]:
        print("not reached:", miss)
    return 1 if table["misses"] else 0


def points_of(methods: Sequence[str] | None, speedups: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is measured: method and speed, `budget` first, as others start from what it found."""
    if methods:
        wanted = sorted(methods, key=lambda m: m != BUDGET)
        return [(m, s) for m in wanted for s in speedups]
    return [(m, s) for m in CURVES for s in speedups] + [(m, ABLATED) for m in ABLATIONS]


def make(name: str, points: Sequence[tuple[str, str]], texts: int, work: Path) -> dict[str, dict[str, Any]]:
    """Make the packages, the unpruned one first; returns what is known of each before it is judged."""
    rows = {}
    for key, flags in [(DENSE, None), *((f"{m} {s}", (m, s)) for m, s in points)]:
        out = folder_of(key, work)
        if not (out / "row.json").is_file():
            prune = ["--prune", options(*flags, texts, work)] if flags else []
            row = export(DATA[name], prune, out)
            (out / "row.json").write_text(json.dumps(row), encoding="utf-8")
        rows[key] = json.loads((out / "row.json").read_text(encoding="utf-8"))
        print(name, key, rows[key], flush=True)
    return rows


def folder_of(key: str, work: Path) -> Path:
    return work / key.replace(" ", "-")


def options(method: str, speed: str, texts: int, work: Path) -> str:
    """Return the flag's value of one point."""
    if method == BUDGET:
        return f"structured:speedup={speed},texts={texts}"
    if method == "nofit":
        plan = folder_of(f"{BUDGET} {speed}", work) / "compressed"
        if not plan.is_dir():
            raise SystemExit(f"nofit {speed}: measure budget {speed} in the same run, or with the same --work")
        return f"structured:plan={plan},texts={texts},reconstruct=false"
    share = share_for(float(speed), work)
    both = f"structured:heads={share:.3f},ffn={share:.3f},texts={texts}"
    plain = {"taylor": "score=taylor", "magnitude": "score=magnitude"}
    if method in plain:
        return f"{both},{plain[method]},steps=1,reconstruct=false"
    return f"{both},loss=answers,{'scope=layer' if method == 'equal' else 'score=fisher'}"


def share_for(speedup: float, work: Path) -> float:
    """Return the share of heads and neurons that must go, by the time that a budgeted run found to be fixed."""
    known = sorted(work.glob(f"{BUDGET}-*/row.json"))
    budget = json.loads(known[0].read_text(encoding="utf-8"))["budget"] if known else {"fixed": 0.0, "source": 1.0}
    fixed = budget["fixed"] / budget["source"]
    return min(0.95, 1 - (1 / speedup - fixed) / (1 - fixed))


def lines_of(tables: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, list[Line]]:
    """Return, for each data set, a line a method: the metric on dev over the speed that was measured."""
    made: dict[str, list[Line]] = {}
    for name, rows in tables.items():
        methods = dict.fromkeys(key.split()[0] for key in rows if key != DENSE)
        start = [(1.0, rows[DENSE]["dev"])]
        made[name] = [
            Line(method, start + sorted((r["speedup"], r["dev"]) for k, r in rows.items() if k.split()[0] == method))
            for method in methods
        ]
    return made


def export(data: Data, flags: Sequence[str], out: Path) -> dict[str, Any]:
    """Run the command line; limits are wide open, so that what a plain method makes is kept."""
    limits = [word for limit in ("agreement=0.01", "stability=0.01", "max_drop=99pt") for word in ("--limit", limit)]
    files = ["--calibration", str(data.train), "--eval", str(data.dev)]
    target = ["--target", "cpu-int8", "--quantize", "static", "--probes", "50"]
    done = plm_export(data.model, *target, *files, *limits, *flags, "-o", str(out), "--json", "--quiet", "--force")
    report = json.loads(done.stdout)
    records = report.get("compress_records", [])
    found = report["targets"][0] if report.get("targets") else {}
    return {
        "exit_code": done.exit_code,
        "seconds": done.seconds,
        "peak_bytes": done.peak_bytes,
        "prune_seconds": sum(r["seconds"] for r in records),
        "prune_peak_bytes": max((r["peak_memory_bytes"] for r in records), default=0),
        "size_bytes": found.get("size_bytes"),
        "folder": found.get("folder"),
        "budget": records[0]["facts"].get("budget") if records else None,
        "widths": [[len(p["heads_kept"]), p["neurons_kept"]] for p in records[0]["facts"]["plan"]] if records else None,
    }


def judge(data: Data, rows: Mapping[str, dict[str, Any]], work: Path) -> dict[str, dict[str, Any]]:
    """Return the rows with the metric on dev and test and the speed of the shipped files."""
    import torch

    from converter.data.files import read_examples
    from converter.model_folder.load import load_source
    from converter.model_folder.samples import resolve_model
    from converter.reference import encode_probes
    from converter.registry import target_class
    from converter.stage import SILENT

    torch.set_num_threads(1)
    source = load_source(resolve_model(data.model, SILENT))
    target = target_class("cpu-int8")()
    runners = {
        key: target.open(work / key.replace(" ", "-") / str(row["folder"]), source.specs) for key, row in rows.items()
    }
    made = {key: dict(row) for key, row in rows.items()}
    for split, file in (("dev", data.dev), ("test", data.test)):
        probes = encode_probes(source, read_examples(file, source.task))
        for key, runner in runners.items():
            made[key][split] = score(source, probes, runner)
        if split == "dev":
            for key, times in speeds(source, probes, runners).items():
                made[key] |= times
    return made


def score(source: "TorchModel", probes: Sequence[Any], runner: "Runner") -> float:
    """Return the metric of a package, each text alone at its own length."""
    from converter.reference import judge as run_all
    from converter.stage import SILENT

    found = source.task.metric(run_all(source, probes, runner.run, SILENT, ""))
    return round(next(iter(found.values())), 5)


def speeds(source: "TorchModel", probes: Sequence[Any], runners: "Mapping[str, Runner]") -> dict[str, dict[str, float]]:
    """Return mean milliseconds and the ratio to the unpruned package: packages take turns, text by text."""
    from converter.reference import feed_of

    least: dict[str, list[float]] = {key: [] for key in runners}
    for probe in probes[:: max(1, len(probes) // TIMED)]:
        feed = feed_of(source, [probe.encoding])
        found: dict[str, list[float]] = {key: [] for key in runners}
        for _ in range(ROUNDS):
            for key, runner in runners.items():
                runner.run(MODEL, feed)
                started = time.perf_counter()
                runner.run(MODEL, feed)
                found[key].append(time.perf_counter() - started)
        for key, times in found.items():
            least[key].append(1000 * min(times))
    means = {key: statistics.mean(times) for key, times in least.items()}
    return {k: {"milliseconds": round(v, 4), "speedup": round(means[DENSE] / v, 3)} for k, v in means.items()}


def misses(tables: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    made = []
    for name, rows in tables.items():
        for speed, wanted in WANTED[name].items():
            row = rows.get(f"{BUDGET} {speed}")
            if row is None:
                made.append(f"{name} {speed} x: not measured")
                continue
            if row["dev"] < wanted:
                made.append(f"{name} {speed} x: {row['dev']:.4f} on dev, wanted {wanted}")
            if row["speedup"] < NEAR * float(speed):
                made.append(f"{name} {speed} x: {row['speedup']:.2f} x measured")
            if row["prune_seconds"] > WANTED_SECONDS or row["prune_peak_bytes"] > WANTED_BYTES:
                made.append(f"{name} {speed} x: {row['prune_seconds']:.0f} s, {row['prune_peak_bytes'] / 1e9:.1f} GB")
    return made


if __name__ == "__main__":
    sys.exit(main())
