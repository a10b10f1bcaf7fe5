"""The TFLite package of MiniLM: size, load, memory, speed by length, beside the best peer where it is there.

    python benchmarks/mobile.py [--peer optimum-int8/model_quantized.onnx]

Writes `benchmarks/results/mobile.json`. One thread; run it on an idle machine, and quote ratios.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import ROOT, SHARED, machine, plm_export, save

MODEL = SHARED / "models" / "sst2-minilm"
FORMS = {
    "21 lengths, one graph": "tflite",
    "4 lengths, a graph each": "tflite:graphs=separate",
    "any length": "tflite:any_length=true",
}
CHILD = """
import json, statistics, sys, time
import numpy as np
from pathlib import Path
from converter.graphs import MODEL
from converter.tflite.runner import TfliteRunner
from converter.package.manifest import read_manifest
from converter.package.verify import read_specs

def resident(kind="VmRSS"):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))

import ai_edge_litert.interpreter
job = json.loads(sys.stdin.read())
folder = Path(job["model"]).parent
specs = read_specs(folder, read_manifest(folder))
rows = [{k: np.array([v], dtype=np.int64) for k, v in row.items()} for row in job["rows"]]
before, own, started = resident(), resident("RssAnon"), time.perf_counter()
runner = TfliteRunner(Path(job["model"]), specs)
loaded = time.perf_counter()
runner.run(MODEL, rows[0])
first, one = time.perf_counter(), resident()
answers = [int(runner.run(MODEL, row)["logits"].argmax()) for row in rows]
used, owned = resident(), resident("RssAnon")
runs = {"ours": lambda row: runner.run(MODEL, row)}
if job["peer"]:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(job["peer"], options, providers=["CPUExecutionProvider"])
    runs["peer"] = lambda row: session.run(None, row)
spent = {name: [] for name in runs}
for _ in range(5):
    for name, run in runs.items():
        started_round = time.perf_counter()
        for row in rows[::4]:
            run(row)
        spent[name].append(1e3 * (time.perf_counter() - started_round) / len(rows[::4]))
by_length = {}
for n in runner.lengths or (16, 32, 64, 128):
    row = {k: np.ones((1, n), np.int64) for k in rows[0]}
    times = []
    for _ in range(40):
        at = time.perf_counter()
        runner.run(MODEL, row)
        times.append(1e3 * (time.perf_counter() - at))
    by_length[n] = round(statistics.median(times), 3)
print(json.dumps({
    "load_ms": round(1e3 * (loaded - started), 2), "first_call_ms": round(1e3 * (first - loaded), 2),
    "memory_bytes": one - before, "memory_used_bytes": used - before, "memory_own_bytes": owned - own,
    "ms_per_text": {k: round(statistics.median(v), 3) for k, v in spent.items()},
    "ms_by_length": by_length, "answers": answers,
}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="an int8 ONNX file of the same model")
    given = parser.parse_args()
    rows, wanted = texts()
    with tempfile.TemporaryDirectory() as folder:
        table = {name: form(name, target, Path(folder), rows, wanted, given.peer) for name, target in FORMS.items()}
    save("mobile", {"machine": machine(), "threads": 1, "texts": len(rows), "forms": table})
    return 0


def texts() -> tuple[list[dict[str, list[int]]], list[int]]:
    """Return the development set as ids, and what the source decides."""
    import torch

    from converter.data.files import read_examples
    from converter.model_folder.load import load_source

    torch.set_num_threads(1)
    source = load_source(str(MODEL))
    found = read_examples(SHARED / "data" / "sst2" / "dev.tsv", source.task)
    rows = [source.task.encode(source.tokenizer, e, 128).inputs for e in found]
    with torch.inference_mode():
        decided = [
            int(source.module(**{k: torch.from_numpy(v)[None] for k, v in r.items()}).logits.argmax()) for r in rows
        ]
    return [{k: v.tolist() for k, v in r.items()} for r in rows], decided


def form(
    name: str, target: str, folder: Path, rows: list[dict[str, list[int]]], wanted: list[int], peer: Path | None
) -> dict[str, Any]:
    out = folder / name.replace(" ", "-").replace(",", "")
    command = [str(MODEL), "--target", target, "-o", str(out), "--quiet", "--json"]
    done = plm_export(*command, "--calibration", str(SHARED / "data" / "sst2" / "train.tsv"))
    made = json.loads(done.stdout)["targets"][0]
    model = out / made["folder"] / "model.tflite"
    job = {"model": str(model), "rows": rows, "peer": str(peer) if peer else ""}
    child = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(job), capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(child.stdout.splitlines()[-1])
    answers = found.pop("answers")
    size = model.stat().st_size
    stages = {r["stage"].rpartition(".")[2]: r["seconds"] for r in made["records"]}
    agreement = sum(a == b for a, b in zip(answers, wanted, strict=True)) / len(wanted)
    times = found["ms_per_text"]
    return {
        "status": made["status"],
        "command_seconds": done.seconds,
        "stage_seconds": stages,
        "peak_bytes": done.peak_bytes,
        "size_bytes": size,
        "agreement": round(agreement, 4),
        **found,
        "memory_over_file": round(found["memory_bytes"] / size, 2),
        # All lengths and most rows of the tables: the file's own pages, which the system may drop, are all there then.
        "memory_used_over_file": round(found["memory_used_bytes"] / size, 2),
        "memory_own_over_file": round(found["memory_own_bytes"] / size, 2),
        "times_the_peer": round(times["peer"] / times["ours"], 2) if "peer" in times else None,
    }


if __name__ == "__main__":
    sys.exit(main())
