"""What the stage cache saves: a second run with another quantization, with the cache and without.

    python benchmarks/resume.py [--model MODEL] [--steps N]

Three runs of the command line: `first` fills an empty cache, `second` asks for another precision and takes what is
common from there, `without` makes the same packages as `second` with no cache. Those two must be equal byte for byte.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from _measure import machine, plm_export, save

from converter.package.rebuilt import compare_packages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sample:default")
    parser.add_argument("--steps", type=int, default=40, help="of distillation")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resume-") as name:
        work = Path(name)
        cached = ("--cache", str(work / "cache"))
        rows = {
            "first": made(given, work / "first", "none", *cached),
            "second": made(given, work / "second", "dynamic", *cached),
            "without": made(given, work / "without", "dynamic"),
        }
        same = compare_packages(*(folder(work / n) for n in ("second", "without")))
        size = sum(p.stat().st_size for p in (work / "cache").rglob("*") if p.is_file())
    table: dict[str, Any] = {"model": given.model, "steps": given.steps, "rows": rows, "machine": machine()}
    table |= {"same_bytes": same.same, "difference": same.sentence(), "cache_bytes": size}
    save("resume", table)
    return 0 if same.same else 1


def made(given: argparse.Namespace, out: Path, precision: str, *flags: str) -> dict[str, Any]:
    """Run the command line once; returns its seconds, of all and by stage."""
    compress = ("--prune", "structured:heads=0.25,ffn=0.25", "--distill", f"soft:steps={given.steps}")
    # A short training is no good model: what is measured is time, not the gate.
    argv = [given.model, *compress, "-t", "cpu-int8", "--quantize", precision, "--limit", "agreement=0", *flags]
    run = plm_export(*argv, "-o", str(out), "-q")
    if run.exit_code not in {0, 3}:
        raise SystemExit(f"{out.name}: exit code {run.exit_code}")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    records = [*report["compress_records"], *report["targets"][0]["records"]]
    stages = [{"stage": r["stage"], "seconds": r["seconds"], "cached": r["cached"]} for r in records]
    return {"precision": precision, "seconds": run.seconds, "peak_bytes": run.peak_bytes, "stages": stages}


def folder(out: Path) -> Path:
    """Return the package, whether it passed or not."""
    return next(p for p in sorted(out.iterdir()) if p.is_dir() and p.name.startswith("cpu-int8"))


if __name__ == "__main__":
    raise SystemExit(main())
