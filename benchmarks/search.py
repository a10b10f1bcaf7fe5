"""What a search finds on MiniLM fine-tuned on SST-2 (and STS-B): its winner beside the best shipped recipe.

    python benchmarks/search.py [--data sst2 stsb] [--speeds 2 3 4] [--minutes 30]
    python benchmarks/search.py --hypervolume --minutes 30 [--seeds 0 1 2]
    python benchmarks/search.py --speeds 2 --minutes 12     a shorter one

Each search is one call of the command line as a user types it: learned from the train split, a part of which is held
back to choose by; dev is its `--eval`, test is read here alone. The best shipped recipe is that of the same run, aimed
at the same speed, made in full like the winner. Speed is over the plain static int8 package, in turns with it.

`--data entities questions` are a tagger and a model that finds answers, which nothing here was tuned on.

`--hypervolume` searches the front without limits, by TPE and at random with the same time and seeds; the volume is that
of loss (up to 5 points), time and size (up to the plain package's), as shares.

Rows are merged into `benchmarks/results/search.json`. The load of the machine stands with each: on a busy one fewer
trials fit into the time.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import known, machine, plm_export, save
from pruning import DATA as REAL
from pruning import Data, score

WORST_LOSS = 0.05
DATA = REAL | {
    # Small enough for a busy machine; samples have no third split, so test is dev.
    name: Data(f"sample:{name}", *(Path(f"sample:{name}") / f"{split}.{kind}" for split in ("train", "eval", "eval")))
    for name, kind in (("sentiment", "tsv"), ("entities", "jsonl"), ("questions", "jsonl"))
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["sst2"], choices=list(DATA))
    parser.add_argument("--speeds", nargs="+", type=float, default=[2.0, 3.0, 4.0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--hypervolume", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--without", nargs="+", default=[], help="methods that are not tried")
    parser.add_argument("--work", type=Path, help="keep what is found here, and go on with what is there")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="search-"))
    table: dict[str, Any] = known("search") or {"rows": {}, "volumes": {}}
    table["machine"] = machine()
    for name in given.data:
        if given.hypervolume:
            table["volumes"][name] = [volumes(name, seed, given.minutes, work) for seed in given.seeds]
        less = [f"--without={method}" for method in given.without]
        mark = f" without {' '.join(given.without)}" if less else ""
        for speed in [] if given.hypervolume else given.speeds:
            found = row(name, speed, given.minutes, work, less)
            table["rows"][f"{name} {speed:g}{mark}"] = found | {"cpu": table["machine"]["cpu"]}
        save("search", table)
    if given.work is None:
        shutil.rmtree(work)
    return 0


def searched(name: str, flags: list[str], minutes: float, out: Path) -> dict[str, Any]:
    """Run one search and return its table."""
    data = DATA[name]
    text = ["--calibration", str(data.train), "--eval", str(data.dev)]
    command = ["search", data.model, "--target", "cpu-int8", *text, "--minutes", f"{minutes:g}", *flags]
    load = os.getloadavg()[0]
    done = plm_export(*command, "-o", str(out), "--json")
    print(name, *flags, "exit", done.exit_code, f"{done.seconds:.0f} s", file=sys.stderr, flush=True)
    return dict(json.loads(done.stdout)) | {"load": [round(load, 2), round(os.getloadavg()[0], 2)]}


def row(name: str, speed: float, minutes: float, work: Path, less: list[str]) -> dict[str, Any]:
    """Return the winner at a speed, and the best shipped recipe at it."""
    out = work / f"{name}-{speed:g}"
    found = searched(name, ["--speedup", f"{speed:g}", "--keep", "2", *less], minutes, out)
    made: dict[str, Any] = {
        "minutes": minutes,
        "seconds": found.get("seconds"),
        "load": found["load"],
        "error": found.get("error"),
    }
    if made["error"]:
        return made
    states = [t["state"] for t in found["trials"]]
    made |= {
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "effort": found["effort"],
        "source": {"tuning": found["source_metric"], "dev": found["source_eval"]},
        "optimism": found["optimism"],
        "gain": found["gain"],
        "missed": found["missed"],
        "n_tuning": found["text"]["n_tuning"],
    }
    one_each = {"winner": found["finalists"][:1], "start": [f for f in found["finalists"] if f["start"]][:1]}
    for what, entries in one_each.items():
        for entry in entries:
            made[what] = entry_row(name, entry, out)
    return made


def entry_row(name: str, entry: dict[str, Any], out: Path) -> dict[str, Any]:
    figures = entry["figures"] or {}
    kept = {k: figures.get(k) for k in ("metric", "drop", "agreement", "milliseconds", "speedup", "megabytes")}
    dev = (entry["eval"] or {}).get("metric")
    return {
        "name": entry["name"],
        "recipe": entry["recipe"],
        "gate": entry["status"],
        "tuning": kept,
        "dev": dev,
        "test": test_metric(name, out / entry["folder"]) if entry["folder"] else None,
    }


def test_metric(name: str, folder: Path) -> float | None:
    """Return the metric of a kept package on the test split, read by its own tokenizer."""
    from converter.data.files import read_examples
    from converter.model_folder.load import load_source
    from converter.model_folder.samples import resolve_data, resolve_model
    from converter.reference import encode_probes
    from converter.registry import target_class
    from converter.stage import SILENT

    package = next((p for p in (folder / "cpu-int8", folder / "cpu-int8.rejected") if p.is_dir()), None)
    if package is None:
        return None
    smaller = folder / "compressed"
    model = load_source(str(smaller) if smaller.is_dir() else resolve_model(DATA[name].model, SILENT))
    runner = target_class("cpu-int8")().open(package, model.specs)
    test = resolve_data(DATA[name].test, SILENT)
    return float(score(model, encode_probes(model, read_examples(test, model.task)), runner))


def volumes(name: str, seed: int, minutes: float, work: Path) -> dict[str, Any]:
    """Return the hypervolumes that TPE and random search reach in the same time."""
    made: dict[str, Any] = {"seed": seed, "minutes": minutes}
    for sampler in ("tpe", "random"):
        out = work / f"{name}-{sampler}-{seed}"
        found = searched(name, ["--sampler", sampler, "--seed", str(seed)], minutes, out)
        made[sampler] = {"volume": volume(found), "trials": len(found["trials"]), "load": found["load"]}
    return made


def volume(found: dict[str, Any]) -> float:
    from converter.search.goal import hypervolume

    measured = [t for t in found["trials"] if t["state"] == "measured"]
    plain = next(t["figures"] for t in measured if t["start"] == "plain")
    points = [
        (
            t["figures"]["loss"] / WORST_LOSS,
            t["figures"]["milliseconds"] / plain["milliseconds"],
            t["figures"]["megabytes"] / plain["megabytes"],
        )
        for t in measured
    ]
    return round(hypervolume(points, (1.0, 1.05, 1.05)), 5)


if __name__ == "__main__":
    sys.exit(main())
