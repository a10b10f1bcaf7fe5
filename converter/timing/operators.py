"""Where the time of a token goes in an ONNX package: ONNX Runtime's own profile of a few steps, by kind of operator."""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import UsageError
from converter.generate.graphs import decoder_of
from converter.generate.timed import TimedText

if TYPE_CHECKING:
    from converter.graphs import GraphSpec

OUTPUT, PRODUCTS, CACHE, REST = "output layer", "other products", "shapes and cache", "rest"
SHAPES = ("Concat", "Expand", "Gather", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that move numbers and compute none; a token's embedding is one Gather among them."""


def operator_times(folder: Path, length: int, tokens: int, threads: int) -> dict[str, float]:
    """Return the milliseconds that each kind of operator takes for one token behind a prompt of `length`.

    Raises:
        UsageError: it is no ONNX package of a model that writes text.
        PackageDamaged: it cannot be read.

    """
    from converter.onnx.package import find_models
    from converter.onnx.runner import OnnxRunner, open_session
    from converter.package.manifest import model_files, read_manifest
    from converter.package.verify import read_specs
    from converter.timing.writing import writes

    manifest = read_manifest(folder)
    specs: Mapping[str, GraphSpec] = read_specs(folder, manifest)
    if not all(name.endswith(".onnx") for name in model_files(manifest).values()) or not writes(specs):
        raise UsageError("it profiles ONNX packages of models that write text", where="--profile", hint="leave it out")
    files = find_models(folder, specs)
    decoder = decoder_of(specs).name
    with tempfile.TemporaryDirectory(prefix="plm-export-") as work:
        sessions = {n: open_session(p, threads) for n, p in files.items() if n != decoder}
        profiled = open_session(files[decoder], threads, profile=Path(work) / "profile")
        runner = OnnxRunner(files, sessions=sessions | {decoder: profiled})
        text = TimedText(runner.run, specs, 1, length)
        for _ in range(tokens):
            text.step()
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    return by_part(events, tokens)


def by_part(events: Sequence[Mapping[str, Any]], tokens: int) -> dict[str, float]:
    """Return milliseconds a token of the last `tokens` runs in a profile of ONNX Runtime, by kind of operator."""
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")[-tokens:]
    nodes = [e for e in events if e.get("cat") == "Node" and str(e.get("name")).endswith("_kernel_time")]
    taken: Counter[str] = Counter()
    for began, ended in runs:
        inside = sorted((e for e in nodes if began <= e["ts"] <= ended), key=lambda e: e["ts"])
        products = [i for i, e in enumerate(inside) if is_product(e["args"]["op_name"])]
        for i, event in enumerate(inside):
            # All that a step does leads to its logits, so their product is the last one.
            last = bool(products) and i == products[-1]
            taken[OUTPUT if last else part_of(event["args"]["op_name"])] += event["dur"]
    return {part: round(taken[part] / 1000 / max(1, len(runs)), 4) for part in (OUTPUT, PRODUCTS, CACHE, REST)}


def is_product(kind: str) -> bool:
    return "MatMul" in kind or "Gemm" in kind


def part_of(kind: str) -> str:
    if is_product(kind):
        return PRODUCTS
    return CACHE if kind in SHAPES else REST
