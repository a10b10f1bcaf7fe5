"""What a cache in float16 costs or gains on a CPU: one attention layer with a cache of float32 and of float16.

    python benchmarks/half_cache.py

`MultiHeadAttention` of ONNX Runtime, as packages have it, of 12 heads of 64 at one token, the best of 60 calls on one
thread. With a float16 cache the graph widens what it reads and rounds what it hands on, since the kernel computes in
float32. Writes `half_cache` into `benchmarks/results/decoding.json`.
"""

import os
import sys
import time
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
from _measure import known, machine, save

HEADS, SIZE = 12, 64
LENGTHS = (64, 512)
WARM_UP, CALLS = 20, 60


def main() -> int:
    rows = {}
    for length in LENGTHS:
        micros = {kind: best(session(half=kind == "float16"), length, kind) for kind in ("float32", "float16")}
        rows[str(length)] = micros | {"ratio": round(micros["float16"] / micros["float32"], 2)}
        print(length, rows[str(length)])
    save("decoding", known("decoding") | {"half_cache": {"machine": machine(), "microseconds_by_length": rows}})
    return 0


def session(*, half: bool) -> Any:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    caches = ["past_key", "past_value", "present_key", "present_value"]
    wide = [f"{name}_wide" for name in caches] if half else caches

    def cast(names: list[str], made: list[str], to: int) -> list[Any]:
        return [helper.make_node("Cast", [a], [b], to=to) for a, b in zip(names, made, strict=True)] if half else []

    attention = helper.make_node(
        "MultiHeadAttention",
        ["query", "key", "value", "", "", "", *wide[:2]],
        ["made", *wide[2:]],
        domain="com.microsoft",
        num_heads=HEADS,
    )
    nodes = [*cast(caches[:2], wide[:2], TensorProto.FLOAT), attention, *cast(wide[2:], caches[2:], kind)]
    rows = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, HEADS * SIZE]) for n in ("query", "key", "value")
    ]
    past, present = (
        [helper.make_tensor_value_info(n, kind, [1, HEADS, axis, SIZE]) for n in names]
        for axis, names in (("past", caches[:2]), ("total", caches[2:]))
    )
    out = helper.make_tensor_value_info("made", TensorProto.FLOAT, [1, 1, HEADS * SIZE])
    graph = helper.make_graph(nodes, "attention", [*rows, *past], [out, *present])
    sets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def best(opened: Any, length: int, kind: str) -> float:
    """Return the microseconds of the fastest call."""
    random = np.random.default_rng(0)
    feed = {n: random.standard_normal((1, 1, HEADS * SIZE)).astype(np.float32) for n in ("query", "key", "value")}
    shape = (1, HEADS, length, SIZE)
    feed |= {n: random.standard_normal(shape).astype(kind) for n in ("past_key", "past_value")}
    taken = []
    for _ in range(WARM_UP + CALLS):
        started = time.perf_counter()
        opened.run(None, feed)
        taken.append(time.perf_counter() - started)
    return round(min(taken[WARM_UP:]) * 1e6, 1)


if __name__ == "__main__":
    sys.exit(main())
