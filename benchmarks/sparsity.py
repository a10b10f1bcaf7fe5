"""What zeros are worth: accuracy, archive and speed of int8 packages with weights pruned one by one or in blocks.

    python benchmarks/sparsity.py [--methods magnitude wanda wanda-fitted obs …] [--patterns 0.5 2:4 0.7 1x4 …]

SST-2, MiniLM, `cpu-int8` static, made by the command line as a user would, calibrated on the train split, judged on
dev and test. A pattern is a share of single weights (`0.7`), N:M (`2:4`), or blocks at one half (`1x4`). Zeros are
counted in the shipped file's products; `deflated_bytes` is that file in an archive. Speed is the ratio to the dense
package, in turns, one thread: dense kernels do not see zeros. `movement` and `obs-distilled` train for as long.

Rows are merged into `benchmarks/results/sparsity.json`: single points can be measured again.
"""

import argparse
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _measure import RESULTS, machine, plm_export, save
from pruning import DATA, DENSE, judge

METHODS = {
    "magnitude": "threshold:score=magnitude",
    "wanda": "threshold:score=wanda",
    "wanda-fitted": "threshold:score=wanda,reconstruct=true",
    "obs": "threshold:score=obs",
    "obs-distilled": "threshold:score=obs",
    "movement": "movement:epochs=2",
}
WITHOUT_TRAINING = list(METHODS)[:4]
LEVEL = 6
"""Of deflate, as archives and downloads use it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=WITHOUT_TRAINING, choices=list(METHODS))
    parser.add_argument("--patterns", nargs="+", default=["0.5", "2:4", "0.6", "0.7", "0.8", "4:8", "1x4"])
    parser.add_argument("--work", type=Path, help="keep packages here, and take those that are there")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="sparsity-"))
    rows = {DENSE: make([], work / DENSE)}
    for pattern in given.patterns:
        for method in given.methods:
            key = f"{method} {pattern}"
            flags = ["--prune", f"{METHODS[method]},{options(pattern)}"]
            flags += ["--distill", "soft:epochs=2"] if method == "obs-distilled" else []
            rows[key] = make(flags, work / key.replace(" ", "-"))
            print(key, rows[key], flush=True)
    file = RESULTS / "sparsity.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"rows": {}}
    table["machine"] = machine()
    table["rows"].update(judge(DATA["sst2"], rows, work))
    save("sparsity", table)
    if given.work is None:
        shutil.rmtree(work)
    return 0


def options(pattern: str) -> str:
    if ":" in pattern:
        return f"pattern={pattern}"
    return f"sparsity=0.5,pattern={pattern}" if "x" in pattern else f"sparsity={pattern}"


def make(flags: Sequence[str], out: Path) -> dict[str, Any]:
    """Return what is known of a package before it is judged; one that is there is not made again."""
    kept = out / "row.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    data = DATA["sst2"]
    limits = [word for limit in ("agreement=0.01", "stability=0.01", "max_drop=99pt") for word in ("--limit", limit)]
    text = ["--calibration", str(data.train), "--eval", str(data.dev), "--probes", "50"]
    target = ["--target", "cpu-int8", "--quantize", "static"]
    done = plm_export(data.model, *target, *text, *limits, *flags, "-o", str(out), "--json", "--quiet", "--force")
    report = json.loads(done.stdout)
    records, found = report.get("compress_records", []), report["targets"][0]
    model = out / str(found["folder"]) / "onnx" / "model_quantized.onnx"
    made = {
        "exit_code": done.exit_code,
        "prune_seconds": sum(r["seconds"] for r in records),
        "prune_peak_bytes": max((r["peak_memory_bytes"] for r in records), default=0),
        "size_bytes": model.stat().st_size,
        "deflated_bytes": len(zlib.compress(model.read_bytes(), LEVEL)),
        "zeros": zeros_of_products(model),
        "zeros_before_int8": records[0]["facts"]["sparsity"] if records else 0.0,
        "folder": found["folder"],
    }
    kept.write_text(json.dumps(made), encoding="utf-8")
    return made


def zeros_of_products(model: Path) -> float:
    """Return the share of zeros in the int8 weights of the products of a file."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(model)).graph
    weights = {n.input[1] for n in graph.node if n.op_type == "MatMulIntegerToFloat"}
    found = [numpy_helper.to_array(t) for t in graph.initializer if t.name in weights]
    return round(sum(int((v == 0).sum()) for v in found) / sum(v.size for v in found), 4)


if __name__ == "__main__":
    sys.exit(main())
