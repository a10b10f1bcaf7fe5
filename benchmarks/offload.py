"""What runs with a source larger than the memory allowed: a BERT-large shape of 1.34 GB on disk.

    python benchmarks/offload.py [--limit SIZE] [ROW …]

Weights are drawn: neither memory nor time depends on what a model knows. Each row is a process of its own, held to the
limit by `--max-memory` (resident memory, pages of files that are read among it); what is told is its exit code, the
highest resident memory, and what it said. `answers`, `wanda` and `obs` run the source or a stage alone; `obs` on four
layers of that width, since its time is that of large matrices. The packages in int8 are made through the Python
interface, with the highest memory of each step. The others are the command line.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _measure import RESULTS, ROOT, Run, machine, run, save

PAGE = ROOT / "docs" / "explanation" / "scale.md"
LAYERS, WIDTH, VOCABULARY = 24, 1024, 30522
TEXTS = ("the old town is by the river", "a film that nobody will miss", "Anna moved to Berlin in 2019")
SMALLER = ("--prune", "layers:keep=1")
ROWS: dict[str, tuple[str, ...]] = {
    "export, no device map": (),
    "export in float32": ("--device-map", "auto"),
    "prune.structured": ("--device-map", "auto", "--prune", "structured:heads=0.5"),
    "prune.layers (keep=1) and export": ("--device-map", "auto", *SMALLER),
    "prune.layers (keep=1), distill.soft and export": ("--device-map", "auto", *SMALLER, "--distill", "soft:steps=4"),
}
ALONE = ("answers", "wanda", "obs")
PACKAGES = {"export to int8 (static)": "static", "export to int8 (dynamic)": "dynamic"}
SHOWN = {"answers": "the source's answers alone"} | {s: f"prune.threshold:score={s} alone" for s in ALONE[1:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", default=[*ALONE, *PACKAGES, *ROWS])
    parser.add_argument("--limit", default="1300MB")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        row, folder = given.child[0], Path(given.child[1])
        if row.isdigit():
            drawn(folder, int(row))
        else:
            told = package(row, folder, given.limit) if row in PACKAGES else alone(row, folder, given.limit)
            print(json.dumps(told))
            return int(told.get("exit_code", 0))
        return 0
    with tempfile.TemporaryDirectory(prefix="offload-") as name:
        work = Path(name)
        child(str(LAYERS), work / "large", given.limit)  # apart: what this process takes counts for those it starts
        size = (work / "large" / "model.safetensors").stat().st_size
        (work / "texts.txt").write_text("".join(f"{t}\n" for t in TEXTS * 12), encoding="utf-8")
        rows = _known(given.limit) | {row: measured(row, work, given.limit) for row in given.rows}
    save("offload", {"model_bytes": size, "limit": given.limit, "rows": rows, "machine": machine()})
    lay(size, given.limit, rows)
    return 0


def _known(limit: str) -> dict[str, Any]:
    """Return the rows of an earlier run with this limit: some may be measured anew."""
    file = RESULTS / "offload.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return dict(found["rows"]) if found.get("limit") == limit else {}


def lay(size: int, limit: str, rows: dict[str, Any]) -> None:
    """Write the figures into the page that tells what holds to the limit."""
    lines = [
        f"A source of {size / 1e6:.0f} MB held to `--max-memory {limit}`:",
        "",
        "| run | exit code | highest memory |",
    ]
    lines += ["| --- | ---: | ---: |"]
    lines += [
        f"| {SHOWN.get(name, name)} | {row['exit_code']} | {row['peak_megabytes']} MB |" for name, row in rows.items()
    ]
    begin, end = (f"<!-- offload: {word} -->" for word in ("begin", "end"))
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    table = "\n".join(lines)
    PAGE.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}", encoding="utf-8")


def measured(row: str, work: Path, limit: str) -> dict[str, Any]:
    """Run one row; returns its figures."""
    if row in (*ALONE, *PACKAGES):
        folder = work / ("four" if row == "obs" else "large")
        if not folder.is_dir():
            child("4", folder, limit)
        done = child(row, folder, limit)
        said = done.stdout.splitlines()[-1] if done.stdout else ""
    else:
        code = "import sys; from converter.commands.cli import main; sys.argv[0] = 'plm-export'; main()"
        flags = ("-t", "cpu-int8", "--quantize", "none", "--limit", "agreement=0", "--probes", "12", "-q", "--json")
        text = ("--calibration", str(work / "texts.txt"), "--max-memory", limit)
        out = ("-o", str(work / row.replace(" ", "-")))
        done = run(["-c", code, str(work / "large"), *ROWS[row], *flags, *text, *out], {"PYTHONPATH": str(ROOT)})
        said = json.dumps(_told(json.loads(done.stdout)))
    found = {
        "exit_code": done.exit_code,
        "seconds": done.seconds,
        "peak_megabytes": round(done.peak_bytes / 1e6),
        "said": said,
    }
    print(row, found, flush=True)
    return found


def child(row: str, folder: Path, limit: str) -> Run:
    """Run this file in a process of its own."""
    return run([str(Path(__file__)), "--child", row, str(folder), "--limit", limit], {"PYTHONPATH": str(ROOT)})


def _told(document: dict[str, Any]) -> Any:
    if "error" in document:
        return document["error"]["message"]
    return [[t["status"], t["size_bytes"], t["error"]] for t in document["targets"]]


def alone(row: str, folder: Path, limit: str) -> dict[str, Any]:
    """Load the source and run one stage, or only ask it, in this process."""
    import torch

    from converter.bounds.sizes import parse_size
    from converter.bounds.watch import Limits, memory_bytes, watched
    from converter.examples import Example
    from converter.model_folder.load import load_source
    from converter.model_folder.offload import Placement
    from converter.prune.threshold import ThresholdPruning
    from converter.reference import capture_reference
    from converter.stage import SILENT, Context, run_stage

    torch.set_num_threads(1)
    allowed = parse_size(limit, "--limit")
    with tempfile.TemporaryDirectory() as name, watched(Limits(memory=allowed)):
        libraries = memory_bytes()
        room = 0 if row == "obs" else None
        source = load_source(str(folder), placement=Placement(Path(name) / "offload", allowed, room))
        texts = tuple(Example(f"{a} {b}") for a in TEXTS for b in TEXTS)
        told: dict[str, Any] = {"offloaded": source.offloaded, "bytes": source.size_bytes, "libraries": libraries}
        if row == "answers":
            return told | {"texts": len(capture_reference(source, texts, SILENT).judged)}
        many = texts if row == "wanda" else tuple(Example(" ".join(TEXTS * 3)) for _ in range(40))
        (work := Path(name) / "work").mkdir()
        stage = ThresholdPruning(0.5, score=row, texts=len(many), steps=1)  # type: ignore[arg-type]
        _, record = run_stage(stage, source, Context(work, calibration=many, teacher=source))
        return told | {"texts": len(many), "sparsity": record.facts["sparsity"], "seconds": record.seconds}


class Steps:
    """Progress that notes the highest resident memory of each step, in MB, by its title; `""`: between two of them."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._open = [""]
        threading.Thread(target=self._look, daemon=True).start()

    @contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator[Any]:
        from converter.stage import SILENT

        self._open.append(title)
        print(title, file=sys.stderr, flush=True)
        try:
            with SILENT.task(title, total) as ticker:
                yield ticker
        finally:
            self._open.pop()

    def note(self, text: str) -> None:
        pass

    def _look(self) -> None:
        from converter.bounds.watch import memory_bytes

        while True:
            title = self._open[-1]
            self.peaks[title] = max(self.peaks.get(title, 0), round(memory_bytes(children=False) / 1e6))
            time.sleep(0.02)


def package(row: str, folder: Path, limit: str) -> dict[str, Any]:
    """Make a package within the limit, in this process."""
    from converter.bounds.sizes import parse_size
    from converter.bounds.watch import LimitReached, Limits
    from converter.errors import ExportError
    from converter.pipeline import run_recipe
    from converter.recipe import bind_recipe

    table = {
        "model": str(folder),
        "targets": ["cpu-int8"],
        "quantize": {"cpu-int8": PACKAGES[row]},
        "calibration": str(folder.parent / "texts.txt"),
        "probes": 12,
        "limits": {"agreement": 0},
    }
    steps, limits = Steps(), Limits(memory=parse_size(limit, "--limit"))
    try:
        out = folder.parent / PACKAGES[row]
        made = run_recipe(bind_recipe(table), out, progress=steps, limits=limits, device_map="auto")
    except (ExportError, LimitReached) as error:
        code = (error.error if isinstance(error, LimitReached) else error).exit_code
        return {"exit_code": code, "said": str(error), "steps": steps.peaks}
    (target,) = made.targets
    failed = [c.detail for c in target.evaluation.checks if c.status == "FAIL"] if target.evaluation else [target.error]
    return {"exit_code": made.exit_code, "bytes": target.size_bytes, "failed": failed, "steps": steps.peaks}


def drawn(folder: Path, layers: int) -> Path:
    """Save a BERT of this shape with a tiny tokenizer."""
    import transformers

    from tests.tiny import make_tokenizer, save_tiny

    tokenizer = make_tokenizer("bert")
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=WIDTH // 64,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=512,
        num_labels=2,
    )
    save_tiny(folder, config, tokenizer, "text-classification")
    file = folder / "tokenizer.json"
    table = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = table["model"]["vocab"]
    vocabulary |= {f"unused{i}": i for i in range(len(vocabulary), VOCABULARY)}
    file.write_text(json.dumps(table), encoding="utf-8")
    return folder


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())
