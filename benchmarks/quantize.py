"""Quantizing a BERT-base-sized model: seconds, and memory as a multiple of its float32 weights, by precision.

    python benchmarks/quantize.py

256 calibration texts of the built-in kind. Random weights serve: neither figure depends on their values. The export to
ONNX is made first and not counted. Writes `benchmarks/results/quantize.json`.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import machine, run, save
from memory import MAKE

TEXTS = 256
WANTED_RATIO = 3.0
WANTED_SECONDS = 180.0
PRECISIONS = {
    "static": "from converter.quantize.static import StaticInt8 as Stage; stage = Stage()",
    "static:portable=true": "from converter.quantize.static import StaticInt8 as Stage; stage = Stage(portable=True)",
    "dynamic": "from converter.quantize.dynamic import DynamicInt8 as Stage; stage = Stage()",
}
IMPORTS = "import scipy.linalg, torch, transformers, onnx, onnxruntime, onnx_ir"
OPEN = """
import json, sys
from pathlib import Path
from converter.onnx.model import OnnxModel
from converter.examples import Example
from converter.graphs import MODEL
from converter.onnx.export import ExportOnnx
from converter.data.probes import builtin_examples
from converter.model_folder.load import load_source
from converter.stage import Context, run_stage
folder, work = sys.argv[1], Path(sys.argv[2])
source = load_source(folder)
texts = [e for e in builtin_examples(source) if e.pair is None]
texts = tuple((texts * (%d // len(texts) + 1))[:%d])
ctx = Context(work=work, calibration=texts)
""" % (TEXTS, TEXTS)  # noqa: UP031 - the code is full of braces
EXPORT = f"{OPEN}run_stage(ExportOnnx(), source, ctx)"
QUANTIZE = """
given = OnnxModel({MODEL: work / "onnx" / "model.onnx"}, source)
_, record = run_stage(stage, given, ctx)
print(json.dumps({"seconds": record.seconds, "products": record.facts["products"]}))
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder, work = Path(temporary) / "bert-base-random", Path(temporary) / "work"
        work.mkdir()
        made = run(["-c", MAKE, str(folder)]), run(["-c", EXPORT, str(folder), str(work)])
        if any(one.exit_code for one in made):
            return 1
        weights = (folder / "model.safetensors").stat().st_size
        imports = run(["-c", IMPORTS]).peak_bytes
        rows = {name: measure(code, folder, work, imports, weights) for name, code in PRECISIONS.items()}
    table = {
        "machine": machine(),
        "texts": TEXTS,
        "weights_bytes": weights,
        "wanted_ratio": WANTED_RATIO,
        "wanted_seconds": WANTED_SECONDS,
        "precisions": rows,
    }
    save("quantize", table)
    kept = all(row["ratio"] <= WANTED_RATIO and row["seconds"] <= WANTED_SECONDS for row in rows.values())
    return 0 if kept else 1


def measure(stage: str, folder: Path, work: Path, imports: int, weights: int) -> dict[str, Any]:
    done = run(["-c", OPEN + stage + QUANTIZE, str(folder), str(work)])
    row = {
        "exit_code": done.exit_code,
        "seconds": json.loads(done.stdout)["seconds"],
        "peak_bytes": done.peak_bytes,
        "imports_bytes": imports,
        "ratio": round((done.peak_bytes - imports) / weights, 2),
    }
    print(row)
    return row


if __name__ == "__main__":
    sys.exit(main())
