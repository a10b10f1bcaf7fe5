"""The shipped recipes on a real model: what each makes of MiniLM fine-tuned on SST-2, as an int8 package for CPUs.

    python benchmarks/recipes.py [--recipes tiny balanced faithful]

Made by the command line as a user would, calibrated on the train split, judged on dev and test, text read by the
own tokenizer of each package. Speed is the ratio of median latencies to the package of the unchanged model (`plain`), a
text at a time at its own length, one thread, all packages in turn in one process. `gate` is what the run itself said.

Rows are merged into `benchmarks/results/recipes.json`: single recipes can be measured again.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _measure import RESULTS, machine, plm_export, save
from pruning import DATA, score

from converter.graphs import MODEL

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.target import Runner

PLAIN = "plain"
RECIPES = ("faithful", "balanced", "tiny")
TIMED = 100
ROUNDS = 7


@dataclass(frozen=True)
class Opened:
    """A package that was made, and the model in whose tokens it reads."""

    model: "TorchModel"
    runner: "Runner"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--work", type=Path, help="keep packages here, and take those that are there")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="recipes-"))
    rows = {name: make(name, work / name) for name in (PLAIN, *given.recipes)}
    judge(rows, work)
    file = RESULTS / "recipes.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"rows": {}}
    table["machine"] = machine()
    table["rows"].update(rows)
    save("recipes", table)
    if given.work is None:
        shutil.rmtree(work)
    return 0


def make(name: str, out: Path) -> dict[str, Any]:
    """Return what is known of a package before it is judged; one that is there is not made again."""
    kept = out / "row.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    data = DATA["sst2"]
    flags = ["--quantize", "static"] if name == PLAIN else ["--recipe", f"sample:{name}"]
    text = ["--calibration", str(data.train), "--eval", str(data.dev)]
    command = [data.model, "--target", "cpu-int8", *flags, *text, "-o", str(out), "--json", "--quiet", "--force"]
    done = plm_export(*command)
    report = json.loads(done.stdout)
    found = report["targets"][0]
    evaluation = found["evaluation"]
    made = {
        "exit_code": done.exit_code,
        "gate": found["status"],
        "agreement": evaluation["agreement"],
        "seconds": done.seconds,
        "peak_bytes": done.peak_bytes,
        "stages": {r["stage"]: r["seconds"] for r in report.get("compress_records", [])},
        "size_bytes": found["size_bytes"],
        "folder": found["folder"],
    }
    kept.write_text(json.dumps(made), encoding="utf-8")
    print(name, made, flush=True)
    return made


def judge(rows: dict[str, dict[str, Any]], work: Path) -> None:
    """Add the metric on dev and test and the speed of the shipped files."""
    import torch

    from converter.data.files import read_examples
    from converter.reference import encode_probes

    torch.set_num_threads(1)
    packages = {name: opened(work / name, row) for name, row in rows.items()}
    for split, file in (("dev", DATA["sst2"].dev), ("test", DATA["sst2"].test)):
        for name, package in packages.items():
            probes = encode_probes(package.model, read_examples(file, package.model.task))
            rows[name][split] = score(package.model, probes, package.runner)
    for name, times in speeds(packages).items():
        rows[name] |= times


def opened(out: Path, row: Mapping[str, Any]) -> Opened:
    from converter.model_folder.load import load_source
    from converter.registry import target_class

    smaller = out / "compressed"
    model = load_source(str(smaller) if smaller.is_dir() else DATA["sst2"].model)
    return Opened(model, target_class("cpu-int8")().open(out / str(row["folder"]), model.specs))


def speeds(packages: Mapping[str, Opened]) -> dict[str, dict[str, float]]:
    """Return median milliseconds, and the median of the ratios to `plain`, text by text in turns."""
    from converter.data.files import read_examples
    from converter.reference import encode_probes, feed_of

    examples = read_examples(DATA["sst2"].dev, packages[PLAIN].model.task)
    some = examples[:: max(1, len(examples) // TIMED)]
    feeds = {
        name: [feed_of(p.model, [probe.encoding]) for probe in encode_probes(p.model, some)]
        for name, p in packages.items()
    }
    best: dict[str, list[float]] = {name: [] for name in packages}
    for number in range(len(some)):
        found: dict[str, list[float]] = {name: [] for name in packages}
        for _ in range(ROUNDS):
            for name, package in packages.items():
                package.runner.run(MODEL, feeds[name][number])
                started = time.perf_counter()
                package.runner.run(MODEL, feeds[name][number])
                found[name].append(time.perf_counter() - started)
        for name, times in found.items():
            best[name].append(1000 * min(times))
    return {
        name: {
            "milliseconds": round(statistics.median(times), 4),
            "speedup": round(statistics.median(p / t for p, t in zip(best[PLAIN], times, strict=True)), 3),
        }
        for name, times in best.items()
    }


if __name__ == "__main__":
    sys.exit(main())
