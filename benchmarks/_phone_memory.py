"""What a process has in memory that runs a TFLite file, by the way in which the file is opened."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

WAYS = ("interpreter", "compiled", "first start", "next start", "plm-export", "plm-export, cache full")
"""LiteRT's Interpreter; its CompiledModel; that with a file for the packed weights, which the first start makes; and
how `plm-export run` and `verify` open it, after a text and three tokens, and after those that fill the cache."""
LIMIT = 1.4
"""Of the file and the cache together."""


def memory_row(path: Path, way: str, signatures: tuple[str, ...]) -> dict[str, Any]:
    """Open a file in this process and run each of its signatures; returns megabytes, less those of the imports.

    `private_mb` is memory of the process alone, `file_mb` that of files that the system may drop and read again,
    `peak_mb` the most of both together at any time; `times` is the peak over the file and the cache.
    """
    import ai_edge_litert.compiled_model
    import ai_edge_litert.interpreter  # noqa: F401 - imports are no part of what is measured

    import converter.generate.loop
    import converter.tflite.schema
    import converter.tflite.writing.runner  # noqa: F401

    packed = path.with_suffix(".xnnpack_cache")
    if way == "first start":
        packed.unlink(missing_ok=True)
    before = _resident()
    if way == "interpreter":
        opened, cache = _interpret(path, signatures)
    elif way.startswith("plm-export"):
        opened, cache = _write(path, full=way.endswith("full"))
    else:
        opened, cache = _compile(path, signatures, packed if "start" in way else None)
    now = _resident()
    peak = now["VmHWM"] - before["VmRSS"]
    del opened  # not before: it is what is measured
    whole = path.stat().st_size + cache
    return {
        "private_mb": round((now["RssAnon"] - before["RssAnon"]) / 1e6, 1),
        "file_mb": round((now["RssFile"] - before["RssFile"]) / 1e6, 1),
        "peak_mb": round(peak / 1e6, 1),
        "file_and_cache_mb": round(whole / 1e6, 1),
        "times": round(peak / whole, 2),
    }


def _interpret(path: Path, signatures: tuple[str, ...]) -> tuple[Any, int]:
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(model_path=str(path), num_threads=1)
    cache, runners = 0, []
    for name in signatures:
        runner = opened.get_signature_runner(name)
        runners.append(runner)
        details = runner.get_input_details()
        cache = max(cache, sum(_bytes(d) for n, d in details.items() if n.startswith(("kv_cache", "cross"))))
        for _ in range(2):
            runner(**{n: np.zeros(d["shape"], d["dtype"]) for n, d in details.items()})
    return (opened, runners), cache


def _write(path: Path, *, full: bool) -> tuple[Any, int]:
    """Write tokens behind a text, as many of it read at once as can be; the model's graphs lie beside its folder."""
    from decoding import read_specs

    from converter.generate.loop import generate
    from converter.generate.settings import GenerationSettings
    from converter.tflite.writing.runner import WriterRunner

    specs = read_specs(path.parents[1])
    opened = WriterRunner(path, specs)
    layout = opened.layout
    length = 33 if layout.causal else 20
    if full:
        length = layout.cache - 2 if layout.causal else layout.source_length
    new = layout.cache if full and not layout.causal else 3
    text = np.arange(5, 5 + length)[None] % 100
    settings = GenerationSettings(eos_ids=(), pad_id=0, start_id=1, max_new_tokens=new)
    generate(opened.run, specs, {"input_ids": text, "attention_mask": np.ones_like(text)}, settings)
    caches = (shape for name, shape in opened.shapes.items() if name.startswith(("kv_cache", "cross")))
    return opened, sum(int(np.prod(shape)) * 4 for shape in caches)


def _compile(path: Path, signatures: tuple[str, ...], packed: Path | None) -> tuple[Any, int]:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.cpu_options import CpuOptions
    from ai_edge_litert.options import Options

    own = CpuOptions(num_threads=1, xnnpack_weight_cache_path=str(packed or ""))
    model = CompiledModel.from_file(str(path), options=Options(cpu_options=own))
    details = model.get_input_tensor_details("decode")
    shared = {n: model.create_input_buffer_by_name("decode", n) for n in details}
    for name, buffer in shared.items():
        buffer.write(np.zeros(details[name]["shape"], details[name]["dtype"]))
    for signature in signatures:
        given = {}
        for name, detail in model.get_input_tensor_details(signature).items():
            same = name in shared and _bytes(detail) == _bytes(details[name])
            given[name] = shared[name] if same else model.create_input_buffer_by_name(signature, name)
            if not same:
                given[name].write(np.zeros(detail["shape"], detail["dtype"]))
        gives = {
            n: shared[n] if n in shared else model.create_output_buffer_by_name(signature, n)
            for n in model.get_output_tensor_details(signature)
        }
        for _ in range(2):
            model.run_by_name(signature, given, gives)
    return (model, shared), sum(_bytes(d) for n, d in details.items() if n.startswith(("kv_cache", "cross")))


def _bytes(detail: Mapping[str, Any]) -> int:
    return int(np.prod(detail["shape"])) * np.dtype(detail["dtype"]).itemsize


def _resident() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("Vm", "Rss"))}


if __name__ == "__main__":
    import json

    print(json.dumps(memory_row(Path(sys.argv[1]), sys.argv[2], tuple(sys.argv[3].split(",")))), flush=True)
