"""How fast models that write text decode on a CPU, in each precision, beside what the memory allows.

    python benchmarks/decoding.py make FOLDER            export and quantize both shapes, once
    python benchmarks/decoding.py time FOLDER --threads 1 [--only gpt2-124m] [--precisions int8 int4] [--peers]
    … --elsewhere        kept beside the figures of another processor, not instead of them

Two shapes with seeded random weights: GPT-2 124M (a prompt of 32 tokens, 48 written) and opus-mt (6 + 6 layers, 512
wide, 58 101 words; 20 tokens in and out, greedy and with four beams). A token can at best be written in the time in
which its weights and scales are read: the bound is the measured bandwidth over those bytes. Precisions that are named
together are timed in turn; `--peers`: CTranslate2 int8 and onnxruntime-genai too, on the same files, with a Python that
has them. Writes `benchmarks/results/decoding.json`.
"""

import argparse
import os
import pickle
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _measure import known, machine, save

NAME = "decoding"
SHAPES = ("gpt2-124m", "opus-mt")
PRECISIONS = ("none", "dynamic", "int8", "static", "int4", "int4:block=32")
PROMPT, WRITTEN, SENTENCE = 32, 48, 20
ROUNDS = 5
DRAWN = 16
"""Texts that ranges are calibrated by, each of its own drawn tokens."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("make", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=SHAPES)
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--elsewhere", action="store_true")
    given = parser.parse_args()
    for shape in given.only:
        precisions = [name for name in given.precisions if name != "static" or shape == "opus-mt"]
        if given.what == "make":
            row = make(shape, given.folder / shape, precisions)
            remember("made", shape, row)
        else:
            row = {**measure(shape, given.folder / shape, precisions, given.threads, peers=given.peers)}
            remember(f"threads_{given.threads}", shape, row, elsewhere=given.elsewhere)
        print(shape, row, flush=True)


def remember(part: str, shape: str, row: dict[str, Any], *, elsewhere: bool = False) -> None:
    results, here = known(NAME), machine()
    others: dict[str, Any] = results.setdefault("elsewhere", {})
    of = others.setdefault(here["cpu"], {}) if elsewhere else results
    before = of.setdefault(part, {})
    before[shape] = {**before.get(shape, {}), **row}
    of["machine"] = here
    save(NAME, results)


def seeded(shape: str) -> tuple[Any, int]:
    """Return a model of random weights, and its pad token."""
    import torch
    import transformers

    torch.manual_seed(0)
    if shape == "gpt2-124m":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval(), 50256
    words = 58101
    config = transformers.MarianConfig(
        vocab_size=words,
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        max_position_embeddings=512,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=words - 1,
        eos_token_id=0,
        decoder_start_token_id=words - 1,
    )
    return transformers.MarianMTModel(config).eval(), words - 1


def make(shape: str, folder: Path, precisions: list[str]) -> dict[str, Any]:
    """Export a shape where that is not done yet, and quantize it; returns sizes, seconds and peak memory."""
    from converter.examples import Example
    from converter.generate.modules import graph_specs
    from converter.onnx.model import OnnxModel
    from converter.onnx.text_export import export_text_graphs
    from converter.quantize.dynamic import DynamicInt8
    from converter.quantize.int4 import Int4Blocks
    from converter.quantize.int8 import Int8Blocks
    from converter.quantize.static import StaticInt8
    from converter.stage import Context, peak_memory_bytes

    made: dict[str, Any] = {}
    if not (folder / "specs.pkl").is_file():
        started = time.perf_counter()
        model, pad = seeded(shape)
        specs = graph_specs(model, pad_id=pad)
        export_text_graphs(model, specs, folder)
        (folder / "specs.pkl").write_bytes(pickle.dumps(specs))
        made["none"] = {"seconds": round(time.perf_counter() - started, 1)}
    specs = read_specs(folder)
    files = {name: folder / f"{name}.onnx" for name in specs}
    made["none"] = made.get("none", {}) | {"mb": megabytes(files)}
    stages = {
        "dynamic": DynamicInt8(),
        "int8": Int8Blocks(),
        "int8:block=32": Int8Blocks(block=32),
        "int4": Int4Blocks(method="rtn"),
        "int4:block=32": Int4Blocks(method="rtn", block=32),
    } | ({"static": StaticInt8(samples=DRAWN)} if shape == "opus-mt" else {})
    texts = drawn_texts() if shape == "opus-mt" else {}
    source: Any = SimpleNamespace(cache=True, specs=specs, tokenizer=None, max_length=512, **texts)
    for name in precisions:
        if name in stages:
            started = time.perf_counter()
            (own := folder / name).mkdir(exist_ok=True)
            calibration = tuple(Example(str(i)) for i in range(DRAWN))
            outcome = stages[name].run(OnnxModel(files, source), Context(work=own, calibration=calibration))
            for graph, path in outcome.made.files.items():
                path.rename(own / f"{graph}.onnx")
            made[name] = {
                "seconds": round(time.perf_counter() - started, 1),
                "mb": megabytes({graph: own / f"{graph}.onnx" for graph in specs}),
                "peak_mb_so_far": round(peak_memory_bytes() / 1e6),
            }
            print(shape, name, made[name], flush=True)
    return made


def drawn_texts() -> dict[str, Any]:
    """Return the task of a translator without a tokenizer: each text it is given is `SENTENCE` tokens drawn for it."""
    from converter.examples import Encoding
    from converter.generate.settings import GenerationSettings
    from converter.tasks.translation import Translation

    class Drawn(Translation):
        settings = GenerationSettings(pad_id=58100, start_id=58100, eos_ids=(0,))

        def encode(self, tokenizer: Any, example: Any, max_length: int) -> Encoding:
            ids = np.random.default_rng(int(example.text)).integers(1, 58100, SENTENCE)
            return Encoding({"input_ids": ids, "attention_mask": np.ones_like(ids)})

    return {"task": Drawn(None)}


def read_specs(folder: Path) -> Any:
    return pickle.loads((folder / "specs.pkl").read_bytes())  # our own file of `make`


def megabytes(files: dict[str, Path]) -> float:
    return round(sum(f.stat().st_size for f in files.values()) / 1e6, 1)


def bandwidth(threads: int) -> float:
    """Return GB/s at which a sum reads memory."""
    import torch

    torch.set_num_threads(threads)
    block = torch.ones(1 << 27)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        block.sum()
        best = max(best, block.numel() * 4 / (time.perf_counter() - started) / 1e9)
    return round(best, 1)


def read_bytes(path: Path) -> int:
    """Return the bytes of weights and scales that are read for one token: those of products."""
    from converter.onnx.read import read_onnx

    seen: dict[str, int] = {}
    for node in read_onnx(path).graph:
        if "MatMul" not in node.op_type:
            continue
        for value in node.inputs[1:]:
            maker = None if value is None else value.producer()
            stored = maker.inputs[0] if maker is not None and maker.op_type in {"Transpose", "Cast"} else value
            if stored is not None and stored.const_value is not None:
                # Scales are stored in half the bytes in which they are read.
                wide = 2 if maker is not None and maker.op_type == "Cast" else 1
                seen[str(stored.name)] = stored.const_value.nbytes * wide
    return sum(seen.values())


def timers_of(shape: str, folder: Path, precisions: list[str], threads: int, *, peers: bool) -> dict[str, Any]:
    """Return what times each precision once, and each peer on the same files."""
    from _decoding_peers import CT2, ct2_timer, genai_timer, make_ct2

    from converter.onnx.runner import OnnxRunner

    specs, timers = read_specs(folder), {}
    for name in precisions:
        own = folder if name == "none" else folder / name
        run = OnnxRunner({graph: own / f"{graph}.onnx" for graph in specs}, threads).run
        timers[name] = decoder(specs, run) if shape == "gpt2-124m" else translator(specs, run)
    if peers:
        if not (folder / CT2).is_dir():
            make_ct2(shape, seeded(shape)[0], folder)
        timers["ctranslate2 int8"] = ct2_timer(shape, folder, threads, (PROMPT, WRITTEN, SENTENCE))
        for name in precisions if shape == "gpt2-124m" else ():
            timers[f"genai {name}"] = genai_timer(folder if name == "none" else folder / name, threads, PROMPT, WRITTEN)
    return timers


def measure(shape: str, folder: Path, precisions: list[str], threads: int, *, peers: bool) -> dict[str, Any]:
    gbs, timers = bandwidth(threads), timers_of(shape, folder, precisions, threads, peers=peers)
    best: dict[str, dict[str, float]] = {name: {} for name in timers}
    for _ in range(ROUNDS):
        for name, timed in timers.items():
            for what, value in timed().items():
                best[name][what] = min(value, best[name].get(what, value))
    for name, row in best.items():
        if "ms_a_token" in row:
            row["tokens_per_second"] = round(1e3 / row["ms_a_token"], 1)
            file = name.removeprefix("genai ")
            if file in precisions:
                own = folder if file == "none" else folder / file
                n_bytes = read_bytes(own / "model.onnx")
                row["of_bound"] = round(n_bytes / gbs / 1e6 / row["ms_a_token"], 3)
                row["mb_read_a_token"] = round(n_bytes / 1e6, 1)
        row["gb_per_second"] = gbs
    return {name: {k: round(v, 3) for k, v in row.items()} for name, row in best.items()}


def decoder(specs: Any, run: Any) -> Any:
    from converter.generate.steps import Steps

    prompt = np.random.default_rng(0).integers(0, 50256, (1, PROMPT))

    def timed() -> dict[str, float]:
        steps = Steps(run, specs, {"input_ids": prompt, "attention_mask": np.ones_like(prompt)})
        started = time.perf_counter()
        token = steps.step(prompt)[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(WRITTEN):
            token = steps.step(token)[:, -1:].argmax(-1)
        return {"ms_a_token": (time.perf_counter() - first) * 1e3 / WRITTEN, "prefill_ms": (first - started) * 1e3}

    return timed


def translator(specs: Any, run: Any) -> Any:
    from converter.generate.loop import generate
    from converter.generate.settings import GenerationSettings

    text = np.random.default_rng(0).integers(1, 58100, (1, SENTENCE))
    feed = {"input_ids": text, "attention_mask": np.ones_like(text)}

    def timed() -> dict[str, float]:
        made = {}
        for what, beams in (("greedy_ms", 1), ("beams_of_4_ms", 4)):
            settings = GenerationSettings(
                eos_ids=(), pad_id=58100, start_id=58100, max_new_tokens=SENTENCE, beams=beams
            )
            started = time.perf_counter()
            generate(run, specs, feed, settings)
            made[what] = (time.perf_counter() - started) * 1e3
        started = time.perf_counter()
        run("encoder_model", feed)
        return made | {"encoder_ms": (time.perf_counter() - started) * 1e3}

    return timed


if __name__ == "__main__":
    main()
