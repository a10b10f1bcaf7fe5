"""What pruned and distilled models that write text lose and gain, beside their source, in one run.

    python benchmarks/decoders.py [--rows 6+2 …] [--work FOLDER] [--rounds 5]

`sample:translator` (six layers each way, 128 wide): every package is made by the command line as a user would, from the
sample's own training pairs; BLEU is that of the shipped file on the 200 held-out sentences, by the package's own
settings. All packages are opened together and timed in turn, one thread: the encoder with the first token, and the
tokens behind it; the median of all rounds. (The least of them is no figure here: a round is a few milliseconds, and on
a busy machine only the faster package finds one that nobody disturbs.)
Writes `benchmarks/results/decoders.json`; `--work` keeps what was made and takes what is there.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import machine, plm_export, save

MODEL = "sample:translator"
SOURCE = "6+6"
LEARN = "sequence:texts=8000,steps=900,learning_rate=5e-4"
ROWS: dict[str, list[str]] = {
    SOURCE: [],
    "6+3": ["--prune", "layers:decoder=3", "--distill", LEARN],
    "6+2": ["--prune", "layers:decoder=2", "--distill", LEARN],
    "6+2 narrow": ["--prune", "layers:decoder=2", "--prune", "structured:ffn=0.5", "--distill", LEARN],
    "6+3 narrow": ["--prune", "layers:decoder=3", "--prune", "structured:heads=0.25,ffn=0.5", "--distill", LEARN],
    "6+2 not taught": ["--prune", "layers:decoder=2"],
    "6+6 narrow": ["--prune", "structured:heads=0.25,ffn=0.5", "--distill", LEARN],
    "trimmed": ["--trim", "vocabulary"],
}
"""Flags by row."""
WANTED = {"": (2.0, 0.005), "6+2": (2.5, 0.01)}
"""Times as fast a token, and the most BLEU (0..1) below the source: of any row, and of one whose name begins so."""
MINUTES = 15
PROMPT, TOKENS = 16, 24
OPEN = ("agreement=0.01", "stability=0.01", "sequences=0", "perplexity=1000", "max_drop=99pt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--work", type=Path, help="keep packages here, and take those that are there")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="decoders-"))
    names = list(dict.fromkeys([SOURCE, *given.rows]))
    rows = {name: make(name, work, given.precision) for name in names}
    for name, figures in timed({n: Path(row["folder"]) for n, row in rows.items()}, given.rounds).items():
        rows[name] |= figures
    for row in rows.values():
        row["times_as_fast"] = round(rows[SOURCE]["ms_a_token"] / row["ms_a_token"], 3)
        row["bleu_below"] = round(rows[SOURCE]["bleu"] - row["bleu"], 4)
        row.pop("folder")
    table = {"machine": machine(), "precision": given.precision, "model": MODEL, "rows": rows, "misses": misses(rows)}
    save("decoders", table)
    if given.work is None:
        shutil.rmtree(work)
    for name, row in rows.items():
        print(name, {k: row[k] for k in ("bleu", "bleu_below", "ms_a_token", "times_as_fast", "size_bytes")})
    for miss in table["misses"]:
        print("not reached:", miss)
    return 1 if table["misses"] else 0


def make(name: str, work: Path, precision: str) -> dict[str, Any]:
    """Make one package, unless it is there; returns what its report says of it."""
    out = work / name.replace(" ", "-")
    row_file = out / "row.json"
    if not row_file.is_file():
        row_file.write_text(json.dumps(export(ROWS[name], out, precision)), encoding="utf-8")
    row: dict[str, Any] = json.loads(row_file.read_text(encoding="utf-8"))
    print(name, row, flush=True)
    return row


def export(flags: Sequence[str], out: Path, precision: str) -> dict[str, Any]:
    """Run the command line; limits are wide open, so that what a worse method makes is kept."""
    files = ["--calibration", f"{MODEL}/train.tsv", "--eval", f"{MODEL}/eval.tsv"]
    limits = [word for limit in OPEN for word in ("--limit", limit)]
    target = ["--target", "cpu-int8", "--quantize", precision]
    done = plm_export(MODEL, *target, *files, *limits, *flags, "-o", str(out), "--json", "--quiet", "--force")
    report = json.loads(done.stdout)
    found = report["targets"][0]
    records, judged = report.get("compress_records", []), found["evaluation"]
    return {
        "flags": list(flags),
        "exit_code": done.exit_code,
        "bleu": round(judged["metric"]["bleu"], 4),
        "chrf": round(judged["metric"].get("chrf", 0.0), 4),
        "source_bleu": round(judged["source_metric"]["bleu"], 4),
        "size_bytes": found["size_bytes"],
        "seconds": done.seconds,
        "compress_seconds": round(sum(r["seconds"] for r in records), 1),
        "peak_bytes": done.peak_bytes,
        "stages": [stage_of(r) for r in records],
        "folder": str(out / "cpu-int8"),
    }


def stage_of(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("steps", "first_loss", "last_loss", "written", "stacks", "parameters_after", "tokens_after")
    facts = {k: record["facts"][k] for k in kept if k in record["facts"]}
    return {"stage": record["stage"], "seconds": record["seconds"], **facts}


def timed(folders: Mapping[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of the first token and of each behind it; packages take turns."""
    from converter.generate.timed import TimedText
    from converter.package.manifest import read_manifest
    from converter.package.verify import open_sealed, read_specs

    opened = {n: (read_specs(f, read_manifest(f)), open_sealed(f).run) for n, f in folders.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in folders}
    for _ in range(rounds):
        for name, (specs, run) in opened.items():
            began = time.perf_counter()
            text = TimedText(run, specs, 1, PROMPT)
            first = time.perf_counter()
            for _ in range(TOKENS):
                text.step()
            found[name].append((first - began, (time.perf_counter() - first) / TOKENS))
    return {
        name: {
            "first_token_ms": round(1000 * median(a for a, _ in taken), 4),
            "ms_a_token": round(1000 * median(b for _, b in taken), 4),
        }
        for name, taken in found.items()
    }


def misses(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the aims that no row reaches, and the rows that took too long to learn."""
    made = []
    for name, (speed, drop) in WANTED.items():
        known = {n: row for n, row in rows.items() if n.startswith(name) and n != SOURCE}
        if not any(row["times_as_fast"] >= speed and row["bleu_below"] <= drop for row in known.values()):
            told = "; ".join(f"{n}: {r['times_as_fast']:.2f} x, {100 * r['bleu_below']:.2f}" for n, r in known.items())
            made.append(f"{name or 'any'}: {speed:g} x at {100 * drop:g} BLEU below, found {told or 'nothing'}")
    slow = (n for n, row in rows.items() if row["compress_seconds"] > 60 * MINUTES)
    return [*made, *(f"{n}: {rows[n]['compress_seconds'] / 60:.1f} minutes, wanted {MINUTES}" for n in slow)]


if __name__ == "__main__":
    sys.exit(main())
