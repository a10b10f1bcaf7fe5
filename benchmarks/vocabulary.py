"""Size of MiniLM in int8 with the vocabulary of a corpus and embedding rows in a codebook, and what it costs.

    python benchmarks/vocabulary.py

Text of the corpus keeps its tokens, so what changes there is the codebook's alone; held-out text is judged beside it.
Writes `benchmarks/results/vocabulary.json` after every run; what stands there with the same flags is not run again
(delete the file for that).
"""

import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import RESULTS, SHARED, machine, plm_export, save

WANTED_BYTES = 14_000_000
WANTED_AGREEMENT_LOST = 0.005
"""Of agreement on text of the corpus, against the plain int8 package: "unchanged" within two texts of four hundred."""
SST2, STSB = SHARED / "data" / "sst2", SHARED / "data" / "stsb"
MODELS = {"sst2-minilm": str(SHARED / "models" / "sst2-minilm"), "all-minilm-l6-v2": "sample:minilm"}
EXACT = {"sst2-minilm": 500, "all-minilm-l6-v2": 1700}
"""Rows that stay whole: what 14 MB leave room for (a model for similarity keeps no pooler)."""
WAYS = ("vocabulary and codebook", "plain")
TARGETS = ("cpu-int8", "tflite")
EVERY = 16
"""Of the corpus, one text in so many is judged."""


def main() -> int:
    rows = _known()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for model, (corpus, judged) in _texts(work).items():
            for way in WAYS:
                for kind, evaluation in judged.items():
                    name = f"{model}, {way}, {kind} text"
                    if name not in rows:
                        rows[name] = measure(MODELS[model], corpus, evaluation, flags_of(model, way), work)
                        _save(rows)
    missed = misses(rows)
    for miss in missed:
        print("not reached:", miss)
    return 1 if missed else 0


def flags_of(model: str, way: str) -> tuple[str, ...]:
    small = ("--trim", "vocabulary:characters=ascii", "--share", f"codebook:exact={EXACT[model]}")
    return () if way == "plain" else small


def _known() -> dict[str, Any]:
    path = RESULTS / "vocabulary.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return dict(table["runs"]) if table.get("rows_kept_whole") == EXACT else {}


def _save(rows: dict[str, Any]) -> None:
    wanted = {"bytes": WANTED_BYTES, "agreement_lost_on_corpus": WANTED_AGREEMENT_LOST}
    missed = misses(rows)
    table = {"machine": machine(), "wanted": wanted, "rows_kept_whole": EXACT, "runs": rows, "misses": missed}
    save("vocabulary", table)


def measure(model: str, corpus: Path, evaluation: Path, flags: tuple[str, ...], work: Path) -> dict[str, Any]:
    """Make int8 packages, calibrated on the corpus in every case, and judge them on `evaluation`."""
    text = ["--calibration", str(corpus), "--eval", str(evaluation)]
    targets = [word for t in TARGETS for word in ("--target", t)]
    done = plm_export(model, *targets, *flags, *text, "-o", str(work / "out"), "--force", "--json", "--quiet")
    report = json.loads(done.stdout)
    made: dict[str, Any] = {"exit_code": done.exit_code, "seconds": done.seconds, "peak_bytes": done.peak_bytes}
    for target in report["targets"]:
        gate = target.get("evaluation") or {}
        made[target["target"]] = {
            "status": target["status"],
            "model_bytes": target["size_bytes"],
            "agreement": gate.get("agreement"),
            "metric": gate.get("metric"),
            "source_metric": gate.get("source_metric"),
            "vocabulary": gate.get("facts", {}).get("vocabulary"),
            "milliseconds": gate.get("milliseconds", {}).get("package"),
        }
    return made


def misses(rows: dict[str, Any]) -> list[str]:
    found = []
    for model in MODELS:
        names = [f"{model}, {way}, corpus text" for way in ("vocabulary and codebook", "plain")]
        if not all(name in rows for name in names):
            found.append(f"{model}: not measured")
            continue
        small, plain = (rows[name] for name in names)
        for target in TARGETS:
            size = small[target]["model_bytes"] or float("inf")
            if size > WANTED_BYTES:
                found.append(f"{model}, {target}: {size} bytes, wanted {WANTED_BYTES}")
            lost = (plain[target]["agreement"] or 0.0) - (small[target]["agreement"] or 0.0)
            if lost > WANTED_AGREEMENT_LOST:
                found.append(f"{model}, {target}: {lost:.4f} of agreement lost on text of the corpus")
    return found


def _texts(work: Path) -> dict[str, tuple[Path, dict[str, Path]]]:
    """Return, by model, the corpus and the files to judge by: some of the corpus, and text that is not in it."""
    lines = (SST2 / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    some = work / "sst2-corpus.tsv"
    some.write_text("".join([lines[0], *lines[1::EVERY]]), encoding="utf-8")
    pairs = work / "stsb-corpus.csv"
    with (
        (STSB / "train.csv").open(encoding="utf-8", newline="") as given,
        pairs.open("w", encoding="utf-8", newline="") as made,
    ):
        rows = list(csv.reader(given))
        csv.writer(made).writerows([rows[0], *rows[1::EVERY]])
    return {
        "sst2-minilm": (SST2 / "train.tsv", {"corpus": some, "held-out": SST2 / "dev.tsv"}),
        "all-minilm-l6-v2": (STSB / "train.csv", {"corpus": pairs, "held-out": STSB / "dev.csv"}),
    }


if __name__ == "__main__":
    sys.exit(main())
