"""Memory and time of a distillation at three sizes, beside the formulas of docs/explanation/scale.md.

    python benchmarks/scale.py [SIZE …]

Models have drawn weights: neither memory nor time depends on what a model knows. Each size is a process of its own: it
loads the source, makes a student with half of its layers, and distills; what is measured is the resident memory above
that of the imported libraries, and the seconds of a step. The formulas count weights in float32: the source once, the
student five times (itself, its copy that learns, gradients, two moments of AdamW), and 6 operations a weight and token
for a student's step (forward 2, backward 4) beside 2 for the teacher's answer.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from _measure import ROOT, machine, run, save

SIZES = {"4 x 256": (4, 256), "6 x 384": (6, 384), "12 x 768": (12, 768)}
"""Layers and width, as of BERT-mini, MiniLM and BERT-base; the vocabulary is that of a tiny tokenizer."""
PAGE = ROOT / "docs" / "explanation" / "scale.md"
BATCH, LENGTH, STEPS = 8, 64, 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(*given.child)))
        return 0
    rows = {}
    for name in given.sizes:
        layers, width = SIZES[name]
        done = run([str(Path(__file__)), "--child", str(layers), str(width)], {"PYTHONPATH": str(ROOT)})
        if done.exit_code:
            return done.exit_code
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, rows[name])
    setting = {"batch": BATCH, "length": LENGTH, "steps": STEPS, "threads": 1}
    save("scale", {"setting": setting, "rows": rows, "machine": machine()})
    lay(rows)
    return 0


def lay(rows: dict[str, Any]) -> None:
    """Write the figures into the page whose formulas they check."""
    head = "| layers x width | weights | memory measured | by formula | seconds a step | operations a second |"
    lines = [head, "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, row in rows.items():
        cells = (
            f"{row['parameters'] / 1e6:.1f} M, student {row['student_parameters'] / 1e6:.1f} M",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
            f"{row['formula_bytes'] / 1e6:.0f} MB",
            f"{row['seconds_a_step']:.2f}",
            f"{row['operations_a_second'] / 1e9:.0f} G",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    begin, end = (f"<!-- scale: {word} -->" for word in ("begin", "end"))
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    table = "\n".join(lines)
    PAGE.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}", encoding="utf-8")


def measure(layers: int, width: int) -> dict[str, Any]:
    """Distill in this process; returns figures and what the formulas say."""
    import tempfile

    import accelerate  # noqa: F401 - counted among the libraries
    import torch

    from converter.distill.soft import SoftLabels
    from converter.examples import Example
    from converter.model_folder.load import load_source
    from converter.prune.layers import LayerDropping
    from converter.stage import Context, run_stage

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = drawn(Path(name) / "model", layers, width)
        texts = tuple(Example(" ".join(["river"] * LENGTH), where=str(i)) for i in range(BATCH * STEPS))
        watched = Peak()
        source = load_source(str(folder))
        (work := Path(name) / "work").mkdir()
        ctx = Context(work, calibration=texts, teacher=source)
        student, _ = run_stage(LayerDropping(layers // 2), source, ctx)
        stage = SoftLabels(steps=STEPS, batch_size=BATCH, max_length=LENGTH, cache_mb=0)
        _, record = run_stage(stage, student, ctx)
        peak = watched.stop()
    counts = [sum(p.numel() for p in m.module.parameters()) for m in (source, student)]
    rows = source.config.vocab_size
    counted = [n - rows * width for n in counts]  # a row of the table is looked up, not multiplied
    tokens = BATCH * LENGTH
    operations = tokens * (2 * counted[0] + 6 * counted[1])
    seconds = record.facts["seconds_training"] / STEPS
    return {
        "parameters": counts[0],
        "student_parameters": counts[1],
        "peak_bytes": peak,
        "formula_bytes": 4 * (counts[0] + 5 * counts[1]),
        "seconds_a_step": round(seconds, 3),
        "operations_a_step": operations,
        "operations_a_second": round(operations / seconds),
    }


class Peak:
    """The largest resident size above what there was at the beginning."""

    def __init__(self) -> None:
        import threading

        import psutil

        self.process = psutil.Process()
        self.before = self.most = self.process.memory_info().rss
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self) -> None:
        while not self.over.wait(0.005):
            self.most = max(self.most, self.process.memory_info().rss)

    def stop(self) -> int:
        self.over.set()
        self.thread.join()
        return int(self.most - self.before)


def drawn(folder: Path, layers: int, width: int) -> Path:
    """Save a BERT of this size with a tiny tokenizer."""
    import transformers

    from tests.tiny import make_tokenizer, save_tiny

    tokenizer = make_tokenizer("bert")
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
        max_position_embeddings=512,
        num_labels=2,
    )
    return save_tiny(folder, config, tokenizer, "text-classification")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())
