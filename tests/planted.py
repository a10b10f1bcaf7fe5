"""Faults planted into packages and into the steps that make them, each with the boundary and layer that it breaks."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from safetensors.numpy import load_file, save_file

from converter.artifact import TorchModel
from converter.rewrite import Rewrite

Damage = Callable[[np.ndarray], np.ndarray]
"""What is done to a weight or bias: an array to another of its shape and type."""
DAMAGES: dict[str, Damage] = {
    "negated": lambda w: np.negative(w, where=w > np.iinfo(w.dtype).min if w.dtype.kind == "i" else True, out=w.copy()),
    "rolled": lambda w: np.roll(w, max(1, len(w.reshape(-1)) // 3)).reshape(w.shape),
    "half zero": lambda w: np.where(np.arange(w.size).reshape(w.shape) % 2 == 0, w, np.zeros_like(w)),
    "reversed": lambda w: w[::-1].copy(),
}


@dataclass(frozen=True)
class Fault:
    """What is broken, and where `explain` must find it. `package`: a key of the packages that are made once."""

    package: str
    boundary: str
    layer: str
    how: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.package, self.boundary, self.layer, self.how)))


@contextmanager
def planted(fault: Fault, package: Path, model: TorchModel, work: Path) -> Iterator[Path]:
    """Yield a copy of the output folder's package with the fault in it, or with it in the steps that run meanwhile."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(package.parent, out)
    folder = out / package.name
    if fault.boundary == "tokenizer":
        _tokenizer(folder, fault)
    elif fault.boundary == "labels":
        _labels(folder, fault)
    elif fault.boundary == "compress":
        _compressed(out / "compressed", fault)
    elif fault.boundary == "packing":
        damage_file(model_file(folder), model, fault.layer, DAMAGES[fault.how])
    else:
        with _steps(fault, model):
            yield folder
        return
    yield folder


def model_file(folder: Path) -> Path:
    return next(p for p in sorted(folder.rglob("*")) if p.suffix in {".onnx", ".tflite"} and "mediapipe" not in p.name)


def _tokenizer(folder: Path, fault: Fault) -> None:
    path = folder / fault.layer
    table = json.loads(path.read_text(encoding="utf-8"))
    if fault.how == "cut at 4":
        table["model_max_length"] = 4
    elif fault.how == "left":
        table["padding_side"] = "left"
    else:
        words = table["model"]["vocab"]
        a, b = sorted(words, key=words.get)[10:12]
        words[a], words[b] = words[b], words[a]
    path.write_text(json.dumps(table), encoding="utf-8")


def _labels(folder: Path, fault: Fault) -> None:
    path = folder / fault.layer
    if path.suffix == ".txt":
        path.write_text("\n".join(reversed(path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")
        return
    table = json.loads(path.read_text(encoding="utf-8"))
    names = table["id2label"]
    names["0"], names["1"] = names["1"], names["0"]
    path.write_text(json.dumps(table), encoding="utf-8")


def _compressed(folder: Path, fault: Fault) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(n for n in weights if n.endswith(f"{fault.layer}.weight"))
    weights[name] = np.ascontiguousarray(DAMAGES[fault.how](weights[name]))
    save_file(weights, path, metadata={"format": "pt"})


@contextmanager
def _steps(fault: Fault, model: TorchModel) -> Iterator[None]:
    """Break a step of the tool itself: the export, a rewrite of the graph, or a quantizer."""
    from converter.onnx import export
    from converter.onnx.rewrites import order

    if fault.boundary == "quantize":
        with _quantizer(fault, model):
            yield
    elif fault.boundary == "rewrite":
        wrong = Rewrite[Any]("wrong", lambda graph: _damage_graph(graph, model, fault))
        with patch.object(order, "EXPORTED", (*order.EXPORTED[:2], wrong, *order.EXPORTED[2:])):
            yield
    else:
        plain = export.export_graph

        def damaged(*args: Any) -> Any:
            graph = plain(*args)
            _damage_graph(graph, model, fault)
            return graph

        with patch.object(export, "export_graph", damaged):
            yield


@contextmanager
def _quantizer(fault: Fault, model: TorchModel) -> Iterator[None]:
    from converter.registry import quantizers

    target, precision = fault.package.split("=")
    cls = quantizers(target)[precision]
    plain: Any = cls.run

    def damaged(self: Any, given: Any, ctx: Any) -> Any:
        outcome = plain(self, given, ctx)
        made = outcome.made
        path = made.path if hasattr(made, "path") else next(iter(made.files.values()))
        damage_file(path, model, fault.layer, DAMAGES[fault.how])
        return replace(outcome, made=made)

    with patch.object(cls, "run", damaged):
        yield


def _damage_graph(graph: Any, model: TorchModel, fault: Fault) -> int:
    import onnx_ir as ir

    arrays = {n: v.const_value.numpy() for n, v in graph.graph.initializers.items()}
    name = nearest(arrays, weight_of(model, fault.layer))
    value = graph.graph.initializers[name]
    value.const_value = ir.tensor(np.ascontiguousarray(DAMAGES[fault.how](arrays[name])), name=name)
    return 1


def weight_of(model: TorchModel, layer: str) -> np.ndarray:
    part = model.module.get_submodule(layer)
    return np.asarray(next(iter(part.parameters(recurse=False))).detach().numpy())


def nearest(arrays: "dict[Any, np.ndarray]", wanted: np.ndarray) -> Any:
    """Return which array is a stored form of a weight: its numbers in either layout, whatever their scales."""
    best, found = 0.0, None
    for key, array in arrays.items():
        if array.size != wanted.size or array.dtype.kind not in "fiu":
            continue
        for like in (wanted.reshape(-1), wanted.T.reshape(-1)):
            score = _alike(array.reshape(-1).astype(np.float64), like.astype(np.float64))
            if score > best:
                best, found = score, key
    assert best > 0.8, f"no array of the file is this weight ({best:.2f})"
    return found


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return abs(float(a @ b)) / lengths if lengths else 0.0


def damage_file(path: Path, model: TorchModel, layer: str, damage: Damage) -> None:
    """Change the weight of a layer in a file, in place: its bytes alone."""
    content = bytearray(path.read_bytes())
    arrays = dict(_arrays(path))
    key = nearest(arrays, weight_of(model, layer))
    before = arrays[key]
    at = content.find(before.tobytes())
    assert at >= 0, "the weight lies in the file as it is"
    after = np.ascontiguousarray(damage(before.copy())).astype(before.dtype).tobytes()
    content[at : at + len(after)] = after
    other = path.with_name(f"{path.name}.damaged")
    other.write_bytes(content)
    other.replace(path)  # the file may be a second name of another package's


def _arrays(path: Path) -> "Iterator[tuple[Any, np.ndarray]]":
    if path.suffix == ".onnx":
        import onnx

        for tensor in onnx.load(str(path)).graph.initializer:
            yield tensor.name, onnx.numpy_helper.to_array(tensor)
        return
    from converter.tflite.file import constant, read_flat

    flat = read_flat(path)
    for graph in flat.subgraphs:
        for tensor in graph.tensors:
            value = constant(flat, tensor)
            if value is not None and value.size > 8:
                yield tensor.buffer, np.array(value)


BLOCK = "bert.encoder.layer.{}."
LAYERS: Sequence[str] = (
    BLOCK.format(0) + "attention.self.query",
    BLOCK.format(1) + "attention.self.value",
    BLOCK.format(0) + "attention.output.dense",
    BLOCK.format(2) + "intermediate.dense",
    BLOCK.format(1) + "output.dense",
    "bert.pooler.dense",
)
"""Of tiny BERT, one of each kind and depth."""
ONNX, TFLITE, SHARED, PRUNED = "cpu-int8=static", "tflite=static", "tflite=none", "cpu-int8=none"
FAULTS: tuple[Fault, ...] = (
    Fault(ONNX, "tokenizer", "tokenizer_config.json", "cut at 4"),
    Fault(TFLITE, "tokenizer", "tokenizer.json", "words swapped"),
    Fault(TFLITE, "tokenizer", "tokenizer_config.json", "left"),
    Fault(ONNX, "labels", "config.json", "swapped"),
    Fault(TFLITE, "labels", "labels.txt", "reversed"),
    Fault(PRUNED, "compress", LAYERS[1], "negated"),
    Fault(PRUNED, "compress", LAYERS[4], "rolled"),
    Fault(PRUNED, "compress", LAYERS[2], "half zero"),
    Fault(ONNX, "export", LAYERS[0], "rolled"),
    Fault(ONNX, "export", LAYERS[3], "negated"),
    Fault(ONNX, "export", LAYERS[5], "half zero"),
    Fault(ONNX, "rewrite", LAYERS[1], "negated"),
    Fault(ONNX, "rewrite", LAYERS[4], "half zero"),
    Fault(ONNX, "rewrite", LAYERS[2], "reversed"),
    Fault(ONNX, "quantize", LAYERS[0], "negated"),
    Fault(ONNX, "quantize", LAYERS[1], "rolled"),
    Fault(ONNX, "quantize", LAYERS[3], "rolled"),
    Fault(ONNX, "quantize", LAYERS[4], "negated"),
    Fault(TFLITE, "quantize", LAYERS[2], "rolled"),
    Fault(TFLITE, "quantize", LAYERS[3], "negated"),
    Fault(TFLITE, "quantize", LAYERS[4], "half zero"),
    Fault(ONNX, "packing", LAYERS[0], "rolled"),
    Fault(ONNX, "packing", LAYERS[2], "negated"),
    Fault(ONNX, "packing", LAYERS[3], "half zero"),
    Fault(ONNX, "packing", LAYERS[5], "rolled"),
    Fault(TFLITE, "packing", LAYERS[1], "negated"),
    Fault(TFLITE, "packing", LAYERS[3], "reversed"),
    Fault(TFLITE, "packing", LAYERS[4], "rolled"),
    Fault(SHARED, "packing", LAYERS[2], "rolled"),
    Fault(SHARED, "packing", LAYERS[4], "negated"),
)
