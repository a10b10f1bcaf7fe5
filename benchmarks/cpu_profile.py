"""Where the time of an int8 text goes, operator by operator: the peer's file, ours, and the products alone.

    python benchmarks/cpu_profile.py --peer PEERS/sst2/optimum-int8/model_quantized.onnx

`--peer` is what `benchmarks/peers.py --peers PEERS` built. One thread, batch 1, sentences of SST-2 at their natural
lengths and at 128 tokens; rounds are interleaved and the least of each sentence counts, so that a busy machine hits all
alike. `bound` is what the integer products of our own file take by themselves, at the same shapes, in the same run:
nothing that runs on these kernels is faster. Writes `benchmarks/results/cpu_profile.json`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort
from _measure import SHARED, machine, plm_export, save
from onnx import TensorProto, helper, numpy_helper
from transformers import AutoTokenizer

MODEL, DATA = SHARED / "models" / "sst2-minilm", SHARED / "data" / "sst2"
SENTENCES, ROUNDS, LONG = 60, 7, 128
PRODUCTS = frozenset({"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "QLinearMatMul", "QGemm"})

Feed = dict[str, np.ndarray]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="the best peer's ONNX file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        common = ("--calibration", str(DATA / "train.tsv"), "--eval", str(DATA / "dev.tsv"), "--quiet")
        plm_export(str(MODEL), "--target", "cpu-int8", "-o", str(out), *common)
        ours = next(out.rglob("model_quantized.onnx"))
        natural, long = sentences()
        table = {
            "natural": compare({"peer": given.peer, "ours": ours}, natural),
            "length_128": compare({"peer": given.peer, "ours": ours}, long),
        }
        megabytes = {"peer": given.peer.stat().st_size / 1e6, "ours": ours.stat().st_size / 1e6}
    save("cpu_profile", {"machine": machine(), "threads": 1, "megabytes": megabytes, **table})
    return 0


def sentences() -> tuple[list[Feed], list[Feed]]:
    """Return every 14th sentence of the dev set, and stretches of 128 tokens of real text."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    lines = (DATA / "dev.tsv").read_text(encoding="utf-8").splitlines()
    column = lines[0].split("\t").index("sentence")
    texts = [line.split("\t")[column] for line in lines[1:]]
    ids = [tokenizer(t, truncation=True, max_length=LONG)["input_ids"] for t in texts]
    stream = [i for text in ids for i in text[1:-1]]
    first, last = ids[0][0], ids[0][-1]
    inner = LONG - 2
    long = [[first, *stream[k * inner : (k + 1) * inner], last] for k in range(SENTENCES // 3)]
    return [_feed(i) for i in ids[:: len(ids) // SENTENCES][:SENTENCES]], [_feed(i) for i in long]


def _feed(ids: list[int]) -> Feed:
    row = np.array([ids], dtype=np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}


def compare(files: dict[str, Path], feeds: list[Feed]) -> dict[str, Any]:
    sessions = {name: _session(str(path)) for name, path in files.items()}
    profiles = {name: profile(path, feeds) for name, path in files.items()}
    shapes = profiles["ours"].pop("shapes")
    profiles["peer"].pop("shapes")
    bound = _session(_products_alone(shapes))
    bound_feed = {i.name: np.full(i.shape, 7, dtype=np.uint8) for i in bound.get_inputs()}
    least: dict[str, list[float]] = {name: [float("inf")] * len(feeds) for name in (*sessions, "bound")}
    for _ in range(ROUNDS):
        for name, times in least.items():
            session = bound if name == "bound" else sessions[name]
            for i, feed in enumerate(feeds):
                started = time.perf_counter()
                session.run(None, bound_feed if name == "bound" else feed)
                times[i] = min(times[i], time.perf_counter() - started)
    ms = {name: round(1e3 * statistics.fmean(t), 3) for name, t in least.items()}
    return {
        "tokens": round(statistics.fmean(f["input_ids"].shape[1] for f in feeds), 1),
        "ms": ms,
        "ours_times_as_fast": round(ms["peer"] / ms["ours"], 2),
        "times_the_bound": round(ms["ours"] / ms["bound"], 2),
        "microseconds_by_operator": profiles,
    }


def profile(path: Path, feeds: list[Feed]) -> dict[str, Any]:
    """Return the median µs of each operator type, summed over its nodes, and the shapes of the integer products."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(str(path), str(Path(folder) / "profile"))
        for feed in feeds * 2:
            session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[tuple[str, str], list[int]] = defaultdict(list)
    shapes: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            op = event["args"]["op_name"]
            spent[op, event["name"]].append(event["dur"])
            if op in PRODUCTS:
                # Weights are packed by then and no longer listed: their shape follows from what goes in and out.
                given, made = (
                    next(iter(event["args"][f"{way}_type_shape"][0].values())) for way in ("input", "output")
                )
                shapes[event["name"]].append((int(np.prod(given[:-1])), given[-1], made[-1]))
    by_op: Counter[str] = Counter()
    for (op, _), times in spent.items():
        by_op[op] += int(statistics.median(times))
    # The products of a text of mean length.
    mean = {n: (round(statistics.fmean(m for m, _, _ in s)), s[0][1], s[0][2]) for n, s in shapes.items()}
    return {"total": by_op.total(), **dict(by_op.most_common(14)), "shapes": list(mean.values())}


def _products_alone(shapes: list[tuple[int, int, int]]) -> bytes:
    """Return a model of nothing but products `u8 [rows, in] x s8 [in, out]`, each with weights of its own."""
    random = np.random.default_rng(0)
    nodes, weights, inputs, outputs = [], [], {}, []
    scale, zero = np.array(0.01, np.float32), np.array(128, np.uint8)
    weights += [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(zero, "zero")]
    for i, (rows, width, out) in enumerate(shapes):
        given = f"x_{rows}_{width}"
        inputs[given] = helper.make_tensor_value_info(given, TensorProto.UINT8, [rows, width])
        weights.append(numpy_helper.from_array(random.integers(-64, 64, (width, out), dtype=np.int8), f"w{i}"))
        weights.append(numpy_helper.from_array(np.ones(out, np.float32), f"s{i}"))
        product = ["MatMulIntegerToFloat", [given, f"w{i}", "scale", f"s{i}", "zero"], [f"y{i}"]]
        nodes.append(helper.make_node(*product, domain="com.microsoft"))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "products", list(inputs.values()), outputs, weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _session(model: "str | bytes", profile_prefix: str | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile_prefix is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile_prefix
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    raise SystemExit(main())
