"""What dropping tokens and leaving early are worth on a CPU, by the text they meet: all packages timed in one run.

    python benchmarks/adaptive.py [--texts N] [--learn N]

Of sst2-minilm, on SST-2 (26 tokens a text) and on several of its sentences in one text (longer texts of the same
model, whose agreement with the source is looked at too). Packages are int8 ONNX of one precision, texts go in one at a
time, one thread, and all packages take turns text by text. Writes `benchmarks/results/adaptive.json`.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _measure import SHARED, commit, machine, save

from converter.adapt.exit import EarlyExit
from converter.artifact import TorchModel
from converter.data.files import read_examples
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.onnx.branches import write_branches
from converter.onnx.export import ExportOnnx
from converter.onnx.runner import OnnxRunner
from converter.prune.tokens import TokenPruning
from converter.quantize.dynamic import DynamicInt8
from converter.reference import feed_of, torch_run
from converter.stage import Context, run_stage, run_stages

SST2 = SHARED / "data" / "sst2"
WAYS: dict[str, TokenPruning | EarlyExit | None] = {
    "plain": None,
    "tokens, keep 0.9": TokenPruning(keep=0.9),
    "tokens, keep 0.8": TokenPruning(keep=0.8),
    "tokens, keep 0.7": TokenPruning(keep=0.7),
    "exit, agreement 0.98": EarlyExit(agreement=0.98),
    "exit, agreement 0.95": EarlyExit(agreement=0.95),
}
SENTENCES = {"SST-2": 1, "4 sentences a text": 4, "10 sentences a text": 10}
"""How many sentences make one text."""
ROUNDS = 3


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--learn", type=int, default=2000)
    asked = parser.parse_args()
    source = load_source(str(SHARED / "models" / "sst2-minilm"))
    learned = read_examples(SST2 / "train.tsv", source.task)[: asked.learn]
    judged = read_examples(SST2 / "dev.tsv", source.task)
    with tempfile.TemporaryDirectory() as temporary:
        packages: dict[str, Any] = {}
        records: dict[str, Any] = {}
        for name, stage in WAYS.items():
            work = Path(temporary) / name.replace(" ", "-")
            work.mkdir()
            packages[name], records[name] = package_of(source, stage, Context(work, calibration=tuple(learned)))
        tables = {title: compare(source, packages, joined(judged, n)[: asked.texts]) for title, n in SENTENCES.items()}
    save(
        "adaptive",
        {
            "machine": machine(),
            "commit": commit(),
            "model": "sst2-minilm",
            "precision": "dynamic int8, one thread, one text a call",
            "texts_learned_from": len(learned),
            "records": records,
            "tables": tables,
        },
    )
    return 0


def package_of(source: TorchModel, stage: TokenPruning | EarlyExit | None, ctx: Context) -> tuple[OnnxRunner, Any]:
    """Return the package's file, opened, and what the stage's record says."""
    made, facts = source, {}
    if stage is not None:
        made, record = run_stage(stage, source, ctx)
        facts = record.facts
    onnx, _ = run_stages([ExportOnnx(), DynamicInt8()], made, ctx)
    path = onnx.weight_files[0]
    if facts.get("exits"):
        write_branches(path, ctx.work / "branched.onnx")
        path = ctx.work / "branched.onnx"
    return OnnxRunner({MODEL: path}), facts


def joined(examples: Sequence[Example], n: int) -> list[Example]:
    """Return texts of `n` sentences each, of one label; a single sentence as it is."""
    if n == 1:
        return list(examples)
    made = []
    for label in sorted({e.label for e in examples if isinstance(e.label, int)}):
        own = [e for e in examples if e.label == label]
        made += [Example(" ".join(e.text for e in own[i : i + n]), label=label) for i in range(0, len(own) - n + 1, n)]
    return made


def compare(source: TorchModel, packages: Mapping[str, OnnxRunner], texts: Sequence[Example]) -> dict[str, Any]:
    """Return time, agreement with the source and accuracy of each package; times are of the same texts, in turns."""
    encodings = [source.task.encode(source.tokenizer, e, source.max_length) for e in texts]
    feeds = [feed_of(source, [e]) for e in encodings]
    wanted = [int(torch_run(source)(MODEL, feed)["logits"].argmax()) for feed in feeds]
    best = {name: np.full(len(feeds), np.inf) for name in packages}
    found: dict[str, list[int]] = {name: [0] * len(feeds) for name in packages}
    for _ in range(ROUNDS):
        for i, feed in enumerate(feeds):
            for name, runner in packages.items():
                started = time.perf_counter()
                made = runner.run(MODEL, feed)
                best[name][i] = min(best[name][i], time.perf_counter() - started)
                found[name][i] = int(made["logits"].argmax())
    plain = float(best["plain"].mean())
    return {
        "texts": len(texts),
        "tokens": round(float(np.mean([e.length for e in encodings])), 1),
        "packages": {
            name: {
                "milliseconds": round(1e3 * float(best[name].mean()), 3),
                "slowest_text_ms": round(1e3 * float(best[name].max()), 3),
                "times_faster": round(plain / float(best[name].mean()), 3),
                "agreement": round(float(np.mean([a == b for a, b in zip(found[name], wanted, strict=True)])), 4),
                "accuracy": round(float(np.mean([a == e.label for a, e in zip(found[name], texts, strict=True)])), 4),
            }
            for name in packages
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())
