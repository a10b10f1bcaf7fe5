"""Conversion memory: how far a BERT-base-sized model takes the process above what the imports alone take.

    python benchmarks/memory.py

Random weights serve: memory does not depend on their values. Writes `benchmarks/results/memory.json`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import machine, plm_export, run, save

TARGETS = ("tflite", "cpu-int8", "ort-gpu")
WANTED_RATIO = 3.0
"""At most this many times the float32 weights, above the import footprint."""
IMPORTS = {
    "tflite": "import torch, transformers, litert_torch, ai_edge_litert.interpreter, ai_edge_quantizer",
    "cpu-int8": "import torch, transformers, onnx, onnxscript, onnxruntime, onnxruntime.quantization",
    "ort-gpu": "import torch, transformers, onnx, onnxscript, onnxruntime",
}
MAKE = """
import sys, torch, transformers
torch.manual_seed(0)
folder = sys.argv[1]
special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
words = [*special, *(chr(c) for c in range(33, 127)), *(f"word{i}" for i in range(30423))]
config = transformers.BertConfig(vocab_size=len(words), num_labels=2)
transformers.BertForSequenceClassification(config).save_pretrained(folder)
transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}, model_max_length=512).save_pretrained(folder)
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bert-base-random"
        if run(["-c", MAKE, str(folder)]).exit_code != 0:
            return 1
        weights = (folder / "model.safetensors").stat().st_size
        rows = {target: measure(target, folder, weights) for target in TARGETS}
    save("memory", {"machine": machine(), "weights_bytes": weights, "wanted_ratio": WANTED_RATIO, "targets": rows})
    return 1 if any(row["ratio"] > WANTED_RATIO for row in rows.values()) else 0


def measure(target: str, folder: Path, weights: int) -> dict[str, Any]:
    imports = run(["-c", IMPORTS[target]]).peak_bytes
    # Few probes: the proof opens package and source as it always does, and takes no longer than it must.
    done = plm_export(
        str(folder), "--target", target, "--probes", "4", "-o", str(folder.parent / target), "--quiet", "--json"
    )
    above = done.peak_bytes - imports
    row = {
        "exit_code": done.exit_code,  # random weights decide little: a gate may well be NOT_RUN or fail
        "seconds": done.seconds,
        "peak_bytes": done.peak_bytes,
        "imports_bytes": imports,
        "ratio": round(above / weights, 2),
    }
    print(target, row)
    return row


if __name__ == "__main__":
    sys.exit(main())
