"""The whole menu of the target `tflite`, each precision through the whole command and its gate.

    python benchmarks/menu.py [--only ROW]

SST-2 on the classifier with every precision and with a vocabulary cut to the training text; entities on two taggers
with the precisions that phones take: the sample, and MiniLM taught the sample's text (made once, kept in the cache of
samples). Writes `benchmarks/results/menu.json` after every row. One thread; run it on an idle machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _measure import ROOT, SHARED, Run, known, machine, plm_export, save

SST2 = SHARED / "data" / "sst2"
MINILM = str(SHARED / "models" / "sst2-minilm")
SAMPLE_TAGGER, MINILM_TAGGER = "sample:entities", "minilm-entities"
TRIM = ("--trim", "vocabulary:characters=ascii")
"""To the tokens of the training text."""
WANTED = {"metric_drop": 0.005, "small_bytes": 14_000_000, "small_agreement": 0.98, "dynamic_bytes": 23_000_000}
STEPS = 400
"""Batches of 16 that MiniLM learns tags from: F1 is above 0.95 then."""
CHILD = """
import json, statistics, sys, time
from pathlib import Path
import numpy as np
from transformers import AutoTokenizer
from converter.graphs import MODEL
from converter.tflite.runner import TfliteRunner
from converter.package.manifest import read_manifest
from converter.package.verify import read_specs

job = json.loads(sys.stdin.read())
folder = Path(job["folder"])
tokenizer = AutoTokenizer.from_pretrained(folder)
runner = TfliteRunner(folder / "model.tflite", read_specs(folder, read_manifest(folder)))
rows = []
for text in job["texts"]:
    ids = tokenizer(text, truncation=True, max_length=runner.max_length)
    rows.append({name: np.array([row], dtype=np.int64) for name, row in ids.items()})
answers = [runner.run(MODEL, row)["logits"].argmax(-1).ravel().tolist() for row in rows]
rounds = []
for _ in range(5):
    started = time.perf_counter()
    for row in rows[::4]:
        runner.run(MODEL, row)
    rounds.append(1e3 * (time.perf_counter() - started) / len(rows[::4]))
print(json.dumps({"answers": answers, "ms_per_text": round(statistics.median(rounds), 3)}))
"""


@dataclass(frozen=True)
class Row:
    """One package: of which model, in which precision, and the figures that it is held to."""

    model: str
    precision: str
    flags: tuple[str, ...] = ()
    near_source: bool = False
    """Within half a point of the source's metric."""
    small: bool = False
    """At most 14 MB at agreement 0.98."""
    every: int = 1
    """Of the texts that are judged, one in so many: XNNPACK has no int16 activations, and nothing else is quick."""


ROWS = {
    "float32": Row(MINILM, "none"),
    "fp16 weights": Row(MINILM, "fp16"),
    "dynamic int8": Row(MINILM, "dynamic"),
    "int8 weights alone": Row(MINILM, "weights"),
    "static int8": Row(MINILM, "static", near_source=True),
    "static, int16 activations": Row(MINILM, "static:activation_bits=16", near_source=True, every=8),
    "mixed int4 and int8": Row(MINILM, "mixed", small=True),
    "int4": Row(MINILM, "int4"),
    "trimmed, dynamic int8": Row(MINILM, "dynamic", TRIM),
    "tags, sample: dynamic int8": Row(SAMPLE_TAGGER, "dynamic", near_source=True),
    "tags, sample: static int8": Row(SAMPLE_TAGGER, "static", near_source=True),
    "tags, MiniLM: dynamic int8": Row(MINILM_TAGGER, "dynamic", near_source=True),
    "tags, MiniLM: static int8": Row(MINILM_TAGGER, "static", near_source=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=ROWS, help="run this row alone, beside what stands in the file")
    given = parser.parse_args()
    before = known("menu").get("rows", {}) if given.only else {}
    rows = {name: row for name, row in before.items() if name in ROWS}
    for name in [given.only] if given.only else ROWS:
        rows[name] = measure(ROWS[name])
        print(name, rows[name])
        ordered = {n: rows[n] for n in ROWS if n in rows}
        save("menu", {"machine": machine(), "threads": 1, "wanted": WANTED, "rows": ordered, "misses": misses(ordered)})
    found = misses(rows)
    for miss in found:
        print("not reached:", miss)
    return 1 if found else 0


def measure(row: Row) -> dict[str, Any]:
    here = machine()
    # A row may be measured alone, on another machine than the rest.
    about = {"every": row.every, "cpu": here["cpu"], "load_before": here["load_before"]}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        model, calibration, whole = files_of(row.model)
        judged = some_of(Path(whole), row.every, Path(folder))
        text = ["--calibration", calibration, "--eval", str(judged)]
        flags = ["--target", "tflite", "--quantize", row.precision, *row.flags, *text]
        done = plm_export(model, *flags, "-o", str(out), "--json", "--quiet")
        report = json.loads(done.stdout)
        made = report["targets"][0] if report.get("targets") else {"error": report.get("error")}
        # A package that fails its gate stays beside the others: what it cost is worth knowing too.
        package = next((p for p in (out / "tflite", out / "tflite.rejected") if p.is_dir()), None)
        measured = {} if package is None else of_file(package, model, judged)
        return {**figures(done, report, made), **measured, **about}


def figures(done: Run, report: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    gate = made.get("evaluation") or {}
    source = report.get("source") or {}
    facts = made["records"][-1]["facts"] if made.get("records") else {}
    kept = ("layers", "kept_dynamic", "kept_in_8_bits", "tables", "dynamic_layers")
    return {
        "exit_code": done.exit_code,
        "status": made.get("status"),
        "error": made.get("error"),
        "size_bytes": made.get("size_bytes"),
        "gate_agreement": gate.get("agreement"),
        "agreement": None,
        "metric": main_metric(gate.get("metric")),
        "source_metric": main_metric(source.get("metric")),
        "worst_error": max((d["max_error"] for d in gate.get("deviations", ())), default=None),
        "command_seconds": done.seconds,
        "stage_seconds": {r["stage"].rpartition(".")[2]: r["seconds"] for r in made.get("records", ())},
        "peak_bytes": done.peak_bytes,
        "source_ms": (gate.get("milliseconds") or {}).get("source"),
        "facts": {name: facts[name] for name in kept if name in facts},
    }


def main_metric(metric: dict[str, float] | None) -> dict[str, float]:
    """Return the first, which is the one that the gate holds."""
    return dict(list((metric or {}).items())[:1])


def of_file(package: Path, model: str, judged: Path) -> dict[str, Any]:
    """Return how many of all judged texts (tags: words) are decided alike, a text's steady time, and what runs how.

    The gate's own agreement is of fewer of these texts, and of some that are hard on purpose.
    """
    job = {"folder": str(package), "texts": texts_of(judged)}
    child = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(job), capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(child.stdout.splitlines()[-1])
    pairs = list(zip(decided(model, judged), found.pop("answers"), strict=True))
    alike = [answered[i] == label for wanted, answered in pairs for i, label in wanted.items()]
    agreement = round(sum(alike) / len(alike), 4)
    return {"agreement": agreement, **found, "operations": operations(package / "model.tflite")}


def decided(model: str, judged: Path) -> list[dict[int, int]]:
    """Return what the source decides by its place: a class a text, or one a word, at its first piece."""
    import torch

    from converter.model_folder.load import load_source

    torch.set_num_threads(1)
    source = load_source(model)
    made = []
    with torch.inference_mode():
        for text in texts_of(judged):
            row = source.tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
            words = row.word_ids()
            logits = source.module(**{name: row[name] for name in source.input_names}).logits[0]
            firsts = [i for i, word in enumerate(words) if word is not None and word != words[i - 1]]
            places = {i: logits[i] for i in firsts} if logits.ndim == 2 else {0: logits}
            made.append({i: int(found.argmax()) for i, found in places.items()})
    return made


def some_of(path: Path, every: int, folder: Path) -> Path:
    """Return the file with one text in so many."""
    if every == 1:
        return path
    head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    made = folder / path.name
    made.write_text("".join([head, *lines[::every]]), encoding="utf-8")
    return made


def texts_of(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".tsv":
        return [line.partition("\t")[0] for line in lines[1:]]
    return [" ".join(json.loads(line)["tokens"]) for line in lines]


def operations(path: Path) -> dict[str, dict[str, int]]:
    """Return how many operations of the longest signature compute in integers, dynamically or in float, by kind."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

    from converter.tflite.file import code_of, inputs_of, outputs_of, read_flat

    names = {number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)}
    small = {TensorType.INT4, TensorType.INT8, TensorType.INT16}
    model = read_flat(path)
    found: dict[str, Counter[str]] = {"integer": Counter(), "dynamic": Counter(), "float": Counter()}
    graph = max(model.subgraphs, key=lambda g: len(g.operators))
    for operation in graph.operators:
        given = [graph.tensors[t].type for t in inputs_of(operation) if t >= 0]
        made = [graph.tensors[t].type for t in outputs_of(operation)]
        floats = TensorType.FLOAT32 in made
        if not floats and not small.intersection(made):
            continue  # sizes, ids and masks
        way = "integer" if not floats else "dynamic" if small.intersection(given[1:2]) else "float"
        found[way][names[code_of(model, operation)].lower()] += 1
    return {way: dict(counts.most_common()) for way, counts in found.items()}


def files_of(model: str) -> tuple[str, str, str]:
    """Return a model, its calibration text, and the text that it is judged by."""
    if model == MINILM:
        return MINILM, str(SST2 / "train.tsv"), str(SST2 / "dev.tsv")
    from converter.stage import SILENT
    from sample_models import folder

    sample = folder("entities", SILENT)
    found = tagger(sample) if model == MINILM_TAGGER else sample
    return str(found), str(sample / "train.jsonl"), str(sample / "eval.jsonl")


def tagger(sample: Path) -> Path:
    """Return MiniLM with a head for the tags of the sample, trained on the sample's text."""
    from converter.stage import SILENT
    from sample_models._cache import cached

    return cached(f"{MINILM_TAGGER}-{STEPS}", lambda made, _: teach(sample, made), SILENT)


def teach(sample: Path, made: Path) -> None:
    import torch
    import transformers

    from converter.data.files import read_examples
    from converter.distill.hard import HardLabels
    from converter.model_folder.load import load_source
    from converter.stage import SILENT, Context, run_stage
    from sample_models import folder

    config = json.loads((sample / "config.json").read_text(encoding="utf-8"))
    labels = {int(i): label for i, label in config["id2label"].items()}
    torch.manual_seed(0)
    body = str(folder("minilm", SILENT))
    module = transformers.AutoModelForTokenClassification.from_pretrained(
        body, id2label=labels, label2id={label: i for i, label in labels.items()}, dtype=torch.float32
    )
    module.save_pretrained(made)
    transformers.AutoTokenizer.from_pretrained(body, model_max_length=128).save_pretrained(made)
    model = load_source(str(made))
    texts = read_examples(sample / "train.jsonl", model.task)[: STEPS * 16]
    with tempfile.TemporaryDirectory() as work:
        stage = HardLabels(epochs=1, learning_rate=1e-4, batch_size=16)
        trained, _ = run_stage(stage, model, Context(Path(work), 0, calibration=texts))
    trained.module.save_pretrained(made)


def misses(rows: dict[str, Any]) -> list[str]:
    made = [f"{name}: exit code {row['exit_code']}" for name, row in rows.items() if row["exit_code"] != 0]
    for name, row in rows.items():
        wanted = ROWS[name]
        if row.get("agreement") is None:
            made.append(f"{name}: nothing was measured")
            continue
        drop = max((row["source_metric"][k] - v for k, v in row["metric"].items()), default=float("inf"))
        if wanted.near_source and drop > WANTED["metric_drop"]:
            made.append(f"{name}: the metric fell by {drop:.4f}")
        if wanted.small and (row["size_bytes"] > WANTED["small_bytes"] or row["agreement"] < WANTED["small_agreement"]):
            made.append(f"{name}: {row['size_bytes']} bytes at agreement {row['agreement']:.4f}")
        if name == "dynamic int8" and row["size_bytes"] > WANTED["dynamic_bytes"]:
            made.append(f"{name}: {row['size_bytes']} bytes")
    return made


if __name__ == "__main__":
    sys.exit(main())
