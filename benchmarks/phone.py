"""How fast models that write text decode as TFLite files, beside the ONNX package of the same weights.

    python benchmarks/phone.py make FOLDER                convert and quantize both shapes, once
    python benchmarks/phone.py time FOLDER --threads 1    time all of them in turn
    python benchmarks/phone.py samples FOLDER             export both samples, as a user does, and read their gates
    python benchmarks/phone.py families FOLDER            compare every family with transformers on 50 prompts
    python benchmarks/phone.py memory FOLDER              measure memory by the way in which a file is opened
    python benchmarks/phone.py trimmed FOLDER             compare opus-mt with 16 000 rows with the whole one
    python benchmarks/phone.py peer FOLDER                time litert-lm on GPT-2 and on a Llama made by litert-torch

Two shapes with seeded random weights, those of `decoding.py`: GPT-2 124M (a prompt of 32 tokens, 48 written) and
opus-mt (20 tokens in, 20 out). Every file runs in a process of its own, one after the other, in rounds; the best round
counts. `ms_a_token` is the loop of `plm-export run`, which copies the cache in and out at every token; `in_place` is
LiteRT's CompiledModel with one buffer for the cache on both sides, as LiteRT-LM and apps with TensorBuffers have it;
`litert_lm` is the same file in the litert-lm command line, where `PLM_EXPORT_LITERT_LM` names it. Memory is the highest
resident size of the process, less that of the imports. Writes `benchmarks/results/phone.json`.
"""

import argparse
import json
import os
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _measure import instruction_sets, known, machine, plm_export, run, save
from _phone_families import family_row
from _phone_in_place import in_place
from _phone_memory import WAYS
from _phone_small import bundle_of, compare_trimmed, litert_lm, peers_row, trimmed_shape
from decoding import PROMPT, SENTENCE, WRITTEN, read_specs, seeded

from tests.fixed_caches import FAMILIES

NAME = "phone"
SHAPES = ("gpt2-124m", "opus-mt")
PRECISIONS = ("none", "dynamic", "weights", "fp16", "int4")
TIMED = ("dynamic",)
"""Precisions that are timed: those in which packages are fast."""
ONNX = "onnx/int8"
"""The ONNX package beside: in the precision that `cpu-int8` has where nothing is said."""
CACHE = {"gpt2-124m": (128, 1024), "opus-mt": (64, 256)}
SAMPLES = ("translator", "storyteller")
ROUNDS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("one", *JOBS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS)
    parser.add_argument("--file", default="")
    parser.add_argument("--cache", nargs="*", type=int, default=())
    given = parser.parse_args()
    if given.what == "one":
        print(json.dumps(one(given.only[0], given.folder, given.file, given.threads)), flush=True)
        return
    JOBS[given.what](given)


def make_all(given: argparse.Namespace) -> None:
    for shape in given.only or SHAPES:
        for cache in given.cache or CACHE[shape]:
            remember("made", f"{shape}, cache {cache}", make(shape, given.folder / shape, cache, given.precisions))
        make_onnx(shape, given.folder / shape / "onnx")


def time_all(given: argparse.Namespace) -> None:
    for shape in given.only or SHAPES:
        for file, row in measure(shape, given.folder, given.threads).items():
            remember(f"threads_{given.threads}", f"{shape}, {file}", row)


def sample_all(given: argparse.Namespace) -> None:
    for sample in SAMPLES:
        for precision in given.precisions:
            remember("samples", f"{sample}, {precision}", sampled(sample, precision, given.folder))


def compare_families(given: argparse.Namespace) -> None:
    for family in given.only or FAMILIES:
        remember("families", family, family_row(family))


def measure_memory(given: argparse.Namespace) -> None:
    for name, path in files_of(given.folder).items():
        for way in WAYS:
            remember("memory", f"{name}, {way}", in_own_process(path, way))


def files_of(folder: Path) -> dict[str, Path]:
    found = (
        (f"{shape}, cache {c}", folder / shape / f"cache-{c}" / "dynamic.tflite")
        for shape in SHAPES
        for c in CACHE[shape]
    )
    return {name: path for name, path in found if path.is_file()}


def in_own_process(path: Path, way: str) -> dict[str, Any]:
    """Return what `memory_row` says in a process of its own; its answers are not looked at."""
    signatures = ("prefill_32" if "gpt2" in str(path) else "encode_32") + ",decode"
    made = run([str(Path(__file__).with_name("_phone_memory.py")), str(path), way, signatures])
    row: dict[str, Any] = json.loads(made.stdout.strip().splitlines()[-1])
    return row


def remember(part: str, name: str, row: dict[str, Any]) -> None:
    print(part, name, row, flush=True)
    results = known(NAME)
    table = {**results.get(part, {}), name: row}
    save(NAME, {**results, "machine": machine() | {"instruction_sets": instruction_sets()}, part: table})


def make(shape: str, folder: Path, cache: int, precisions: list[str]) -> dict[str, Any]:
    """Convert a shape with a cache of so many positions, and quantize it; returns sizes, seconds and peak memory."""
    from converter.registry import quantizers
    from converter.stage import Context, peak_memory_bytes
    from converter.tflite.writing.lower import LowerWriter, layout_of
    from converter.tflite.writing.model import TfliteWriter
    from converter.tflite.writing.package import FITS

    own = folder / f"cache-{cache}"
    own.mkdir(parents=True, exist_ok=True)
    source = torch_model(shape)
    if not (folder / "specs.pkl").is_file():
        (folder / "specs.pkl").write_bytes(pickle.dumps(dict(source.specs)))
    lengths = (32,) if shape == "gpt2-124m" else (32, 64)
    plain = own / "none.tflite"
    rows: dict[str, Any] = {}
    if not plain.is_file():
        started = time.perf_counter()
        plain.hardlink_to(LowerWriter(cache, lengths).run(source, Context(work=own)).made.path)
        rows["none"] = {"seconds": round(time.perf_counter() - started, 1)}
    rows["none"] = rows.get("none", {}) | {"mb": round(plain.stat().st_size / 1e6, 1)}
    layout = layout_of(source, cache, lengths)
    given = TfliteWriter(plain, source, layout.lengths, ("logits",), layout=layout)
    for name in precisions:
        if name == "none":
            continue
        started = time.perf_counter()
        stage: Any = quantizers("tflite")[name]()
        stage = replace(stage, **{k: 0 for k in FITS if hasattr(stage, k)})
        made = stage.run(given, Context(work=own)).made
        (own / f"{name}.tflite").unlink(missing_ok=True)
        (own / f"{name}.tflite").hardlink_to(made.path)
        rows[name] = {
            "mb": round(made.size_bytes / 1e6, 1),
            "seconds": round(time.perf_counter() - started, 1),
            "peak_mb_so_far": round(peak_memory_bytes() / 1e6),
        }
    return rows | {"weights_mb": round(source.size_bytes / 1e6, 1)}


def sampled(sample: str, precision: str, folder: Path) -> dict[str, Any]:
    """Export a sample where that is not done yet; returns what its gate says."""
    out = folder / f"s-{sample}-{precision}"
    if not (out / "report.json").is_file():
        aim = f"tflite={precision}"
        plm_export(f"sample:{sample}", "--target", "tflite", "--quantize", aim, "-o", str(out), "--quiet")
    packages = [p for p in out.glob("tflite*/") if (p / "manifest.json").is_file() or (p / "rejected.json").is_file()]
    table = packages[0] / "manifest.json"
    gate = json.loads((table if table.is_file() else table.with_name("rejected.json")).read_text())["gate"]
    values = {c["name"]: c["value"] for c in gate["checks"]}
    score = next(iter(gate["metric"]))
    return {
        "mb": round((packages[0] / "model.tflite").stat().st_size / 1e6, 2),
        "status": gate["status"],
        "score": score,
        "source": round(gate["source_metric"][score], 4),
        "package": round(gate["metric"][score], 4),
        "perplexity_ratio": round(values["perplexity"], 4),
        "next_token": round(values["agreement"], 4),
        "equal_texts": gate["facts"]["generation"]["equal"],
        "texts": gate["facts"]["generation"]["texts"],
    }


def make_onnx(shape: str, folder: Path) -> None:
    import decoding

    folder.mkdir(parents=True, exist_ok=True)
    print(decoding.make(shape, folder, [Path(ONNX).name]), flush=True)


def torch_model(shape: str) -> Any:
    """Return a shape as the stages take it."""
    return stage_model(*seeded(shape), shape)


def stage_model(model: Any, pad: int, shape: str) -> Any:
    """Return a model as the stages take it, with a tokenizer that only knows what it pads with."""
    from converter.artifact import Provenance, TorchModel
    from converter.generate.modules import cache_facts
    from converter.registry import task_class

    causal = shape == "gpt2-124m"
    task = task_class("text-generation" if causal else "translation")(model.config)
    words = int(model.config.vocab_size)

    class Tokenizer:
        pad_token_id, padding_side, model_input_names = pad, "left" if causal else "right", ("input_ids",)

        def __len__(self) -> int:
            return words

    positions = 1024 if causal else 512
    names = ("input_ids", "attention_mask")
    return TorchModel(model, task, Tokenizer(), names, positions, Provenance(shape), Path(), cache=cache_facts(model))


def measure(shape: str, folder: Path, threads: int) -> dict[str, Any]:
    """Time each file in a process of its own, in turns; returns the best of the rounds."""
    files = [f"cache-{c}/{p}.tflite" for c in CACHE[shape] for p in TIMED] + [ONNX]
    best: dict[str, dict[str, float]] = {file: {} for file in files}
    for _ in range(ROUNDS):
        for file in files:
            asked = ["one", str(folder), "--only", shape, "--file", file, "--threads", str(threads)]
            made = run([str(Path(__file__)), *asked])
            found = json.loads(made.stdout.strip().splitlines()[-1])
            for what, value in found.items():
                best[file][what] = min(value, best[file].get(what, value))
    client = os.environ.get("PLM_EXPORT_LITERT_LM")
    for file, row in best.items():
        if client and shape == "gpt2-124m" and file.endswith(".tflite"):
            cache = int(Path(file).parent.name.partition("-")[2])
            bundle = bundle_of(folder / shape / file, cache)
            row["litert_lm_tokens_per_second"] = litert_lm(client, bundle, cache, threads)
    for row in best.values():
        for what in [w for w in row if w.endswith("ms_a_token")]:
            row[what.replace("ms_a_token", "tokens_per_second")] = round(1e3 / row[what], 1)
    return best


def one(shape: str, folder: Path, file: str, threads: int) -> dict[str, float]:
    """Open one file and time it in this process."""
    specs = read_specs(folder / shape)
    import onnxruntime  # noqa: F401 - imports are no part of what is measured

    before = peak_bytes()
    path = folder / shape / file
    started = time.perf_counter()
    if file.endswith(".tflite"):
        from converter.tflite.writing.runner import WriterRunner

        opened: Any = WriterRunner(path, specs, threads)
    else:
        from converter.onnx.runner import OnnxRunner

        opened = OnnxRunner({graph: path / f"{graph}.onnx" for graph in specs}, threads)
    made = {"load_ms": (time.perf_counter() - started) * 1e3}
    made |= (decoder if shape == "gpt2-124m" else translator)(specs, opened.run)
    made["memory_mb"] = (peak_bytes() - before) / 1e6
    size = [path] if path.is_file() else list(path.glob("*.onnx"))
    made["mb"] = sum(p.stat().st_size for p in size) / 1e6
    if file.endswith(".tflite"):
        made |= in_place(shape, path, threads)
    return {name: round(value, 3) for name, value in made.items()}


def peak_bytes() -> int:
    """Return the highest resident size of this process so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def decoder(specs: Any, run: Any) -> dict[str, float]:
    from converter.generate.steps import Steps

    prompt = np.random.default_rng(0).integers(0, 50256, (1, PROMPT))
    made: dict[str, float] = {}
    for _ in range(2):
        steps = Steps(run, specs, {"input_ids": prompt, "attention_mask": np.ones_like(prompt)})
        started = time.perf_counter()
        token = steps.step(prompt, keep=1).argmax(-1)
        first = time.perf_counter()
        for _ in range(WRITTEN):
            token = steps.step(token)[:, -1:].argmax(-1)
        made = {
            "ms_a_token": (time.perf_counter() - first) * 1e3 / WRITTEN,
            "first_token_ms": (first - started) * 1e3,
        }
    return made


def translator(specs: Any, run: Any) -> dict[str, float]:
    from converter.generate.loop import generate
    from converter.generate.settings import GenerationSettings

    text = np.random.default_rng(0).integers(1, 58100, (1, SENTENCE))
    feed = {"input_ids": text, "attention_mask": np.ones_like(text)}
    settings = GenerationSettings(eos_ids=(), pad_id=58100, start_id=58100, max_new_tokens=SENTENCE)
    made: dict[str, float] = {}
    for _ in range(2):
        started = time.perf_counter()
        generate(run, specs, feed, settings)
        made["greedy_ms"] = (time.perf_counter() - started) * 1e3
    return made


def measure_trimmed(given: argparse.Namespace) -> None:
    """Trim opus-mt's vocabulary, and write the same texts by the whole file and by the trimmed one, both in int8."""
    from converter.registry import quantizers
    from converter.stage import Context
    from converter.tflite.writing.lower import LowerWriter
    from converter.tflite.writing.runner import WriterRunner

    own = given.folder / "opus-mt" / "trimmed"
    own.mkdir(parents=True, exist_ok=True)
    model, pad, kept = trimmed_shape("opus-mt")
    source, path = stage_model(model, pad, "opus-mt"), own / "dynamic.tflite"
    if not path.is_file():
        plain = LowerWriter(CACHE["opus-mt"][0], (32, 64)).run(source, Context(work=own)).made
        stage: Any = quantizers("tflite")["dynamic"]()
        path.hardlink_to(replace(stage, texts=0, smooth=0.0).run(plain, Context(work=own)).made.path)
    whole = given.folder / "opus-mt" / f"cache-{CACHE['opus-mt'][0]}" / "dynamic.tflite"
    known = read_specs(given.folder / "opus-mt")
    row = compare_trimmed(
        (WriterRunner(whole, known).run, known), (WriterRunner(path, source.specs).run, source.specs), kept, kept[-1]
    )
    sizes = {
        "rows": len(kept),
        "mb": round(path.stat().st_size / 1e6, 2),
        "whole_mb": round(whole.stat().st_size / 1e6, 2),
    }
    remember("trimmed", "opus-mt, dynamic", sizes | row)


def measure_peer(given: argparse.Namespace) -> None:
    for cache in given.cache or CACHE["gpt2-124m"][:1]:
        row = peers_row(given.folder, cache, given.threads, ROUNDS)
        remember("peer", f"cache {cache}, threads {given.threads}", row)


JOBS = {
    "make": make_all,
    "time": time_all,
    "samples": sample_all,
    "families": compare_families,
    "memory": measure_memory,
    "trimmed": measure_trimmed,
    "peer": measure_peer,
}

if __name__ == "__main__":
    main()
