"""Conversion memory: how far a BERT-base-sized model takes the process above what the imports alone take.

    python benchmarks/memory.py
    python benchmarks/memory.py --writer      of the shape of GPT-2 (124 million parameters), to `cpu-int8` alone

Random weights serve: memory does not depend on their values. Writes `benchmarks/results/memory.json`.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _measure import known, machine, plm_export, run, save

TARGETS = ("tflite", "cpu-int8", "ort-gpu")
WANTED_RATIO = 3.0
"""At most this many times the float32 weights, above the import footprint."""
IMPORTS = {
    "tflite": "import torch, transformers, litert_torch, ai_edge_litert.interpreter, ai_edge_quantizer",
    "cpu-int8": "import torch, transformers, onnx, onnxscript, onnxruntime, onnxruntime.quantization",
    "ort-gpu": "import torch, transformers, onnx, onnxscript, onnxruntime",
}
FEW_PROBES = ("--probes", "4")
"""The proof opens package and source as it always does, and takes no longer than it must."""
LOOSE = [a for limit in ("agreement=0.5", "stability=0.5", "sequences=0.1", "perplexity=2") for a in ("--limit", limit)]
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
MAKE_WRITER = """
import sys
sys.path.insert(0, "benchmarks")
from _documents_tokenizer import write_tokenizer
from tests.tiny_text import make_text_model
folder, size = sys.argv[1], 50257
write_tokenizer(folder, size)
ends = {"bos_token_id": size - 1, "eos_token_id": size - 1}
shape = {"vocab_size": size, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
make_text_model("gpt2", **shape, **ends).save_pretrained(folder)
"""
"""Drawn so that it does not repeat one token: a model that does is not compared."""


def main() -> int:
    if "--writer" in sys.argv[1:]:
        return measure_writer()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bert-base-random"
        if run(["-c", MAKE, str(folder)]).exit_code != 0:
            return 1
        weights = (folder / "model.safetensors").stat().st_size
        rows = {target: measure(target, folder, weights) for target in TARGETS}
    made = {"machine": machine(), "weights_bytes": weights, "wanted_ratio": WANTED_RATIO, "targets": rows}
    save("memory", known("memory") | made)
    return 1 if any(row["ratio"] > WANTED_RATIO for row in rows.values()) else 0


def measure_writer() -> int:
    """Measure a model that writes text, on as many texts as a user's export has."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "gpt2-124m-random"
        if run(["-c", MAKE_WRITER, str(folder)]).exit_code != 0:
            return 1
        weights = (folder / "model.safetensors").stat().st_size
        # Of weights that nobody taught, rounding changes more answers than it does of any real model: with the usual
        # limits it fails, and the search for the cause would be measured too.
        row = measure("cpu-int8", folder, weights, LOOSE)
    save("memory", known("memory") | {"writer": {"machine": machine(), "weights_bytes": weights, "cpu-int8": row}})
    return 1 if row["ratio"] > WANTED_RATIO else 0


def measure(target: str, folder: Path, weights: int, more: Sequence[str] = FEW_PROBES) -> dict[str, Any]:
    imports = run(["-c", IMPORTS[target]]).peak_bytes
    out = str(folder.parent / target)
    done = plm_export(str(folder), "--target", target, *more, "-o", out, "--quiet", "--json")
    above = done.peak_bytes - imports
    row = {
        "exit_code": done.exit_code,  # random weights decide little: a gate may well be NOT_RUN or fail
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "peak_bytes": done.peak_bytes,
        "imports_bytes": imports,
        "ratio": round(above / weights, 2),
    }
    print(target, row)
    return row


if __name__ == "__main__":
    sys.exit(main())
