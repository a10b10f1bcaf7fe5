"""Faults in the file of a TFLite package, and in the one for MediaPipe."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _mutants import PRODUCTS, NoPlace, Plant

from converter.tflite.file import (
    add_buffer,
    add_tensor,
    bytes_of,
    code_of,
    inputs_of,
    read_flat,
    shape_of,
    text,
    write_flat,
)
from converter.tflite.quantize.tables import packed_int4

INT4 = 17
NUMBERS = {0: np.float32, 1: np.float16, 9: np.int8, INT4: np.int8}
Constant = tuple[Any, Any, np.ndarray]
"""Graph, tensor and values."""


def changed(change: Callable[[Any, np.random.Generator], str], file: str = "model.tflite") -> Plant:
    """Return a fault that opens a file of the package, changes it, and writes it back."""

    def plant(folder: Path, random: np.random.Generator) -> str:
        path = folder / file
        if not path.is_file():
            raise NoPlace(file)
        model = read_flat(path)
        said = change(model, random)
        behind = _archive(path)
        made = path.with_suffix(".new")
        write_flat(model, made, inline=bool(behind))
        made.rename(path)
        if behind:
            with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
                for name, content in behind.items():
                    archive.writestr(zipfile.ZipInfo(name), content)
        return said

    return plant


def _archive(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}


def _constants(model: Any, name: str, place: int) -> list[Constant]:
    """Return the constants that operations of a kind read at a place, through dequantization; each buffer once."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    found: dict[int, Constant] = {}
    for graph in model.subgraphs:
        makers = {int(t): op for op in graph.operators for t in op.outputs}
        for op in graph.operators:
            if code_of(model, op) != getattr(BuiltinOperator, name) or len(inputs_of(op)) <= place:
                continue
            number = inputs_of(op)[place]
            if number < 0:
                continue
            if number in makers and code_of(model, makers[number]) == BuiltinOperator.DEQUANTIZE:
                number = inputs_of(makers[number])[0]
            tensor = graph.tensors[number]
            data, kind = bytes_of(model, tensor.buffer), NUMBERS.get(tensor.type)
            if len(data) and kind is not None:
                values = _unpacked(data) if tensor.type == INT4 else data.view(kind)
                found.setdefault(tensor.buffer, (graph, tensor, values.reshape(shape_of(tensor)).copy()))
    if not found:
        raise NoPlace(f"constants of {name}")
    return list(found.values())


def _unpacked(data: np.ndarray) -> np.ndarray:
    """Return the numbers of four bits that bytes hold two of each, the lower half first."""
    halves = np.stack([data & 0xF, data >> 4], axis=-1).reshape(-1).astype(np.int8)
    return np.where(halves > 7, halves - 16, halves).astype(np.int8)


def _put(model: Any, constant: Constant, values: np.ndarray) -> None:
    _, tensor, before = constant
    if before.dtype == np.int8:
        largest = 7 if tensor.type == INT4 else 127
        values = np.clip(np.rint(values), -largest, largest)
    made = np.ascontiguousarray(values.astype(before.dtype))
    if tensor.type == INT4:
        made = packed_int4(made)
    model.buffers[tensor.buffer].data = np.frombuffer(made.tobytes(), np.uint8)


def rows_changed(model: Any, random: np.random.Generator, *, which: int, how: str) -> str:
    tables = [c for c in _constants(model, "EMBEDDING_LOOKUP", 1) if c[2].ndim == 2 and c[2].shape[1] > 1]
    tables.sort(key=lambda c: -len(c[2]))
    if which >= len(tables):
        raise NoPlace("a second table")
    constant = tables[which]
    values = constant[2]
    n = len(values)
    if n < 8:
        raise NoPlace("rows")
    rows = {
        "one": lambda: random.integers(6, n, 1),
        "few": lambda: random.choice(np.arange(6, n), max(2, n // 100), replace=False),
        "half": lambda: random.choice(np.arange(6, n), n // 2, replace=False),
        "last": lambda: np.arange(n // 2, n),
        "off by one": lambda: np.arange(n),
    }[how]()
    values[rows] = 0 if how in {"one", "last"} else values[np.roll(rows, 1)]
    _put(model, constant, values)
    return f"{len(rows)} rows of {text(constant[1].name)[-40:]}"


def product_changed(model: Any, random: np.random.Generator, *, how: str) -> str:
    products = [c for c in _constants(model, "FULLY_CONNECTED", 1) if c[2].ndim == 2]
    constant = products[int(random.integers(len(products)))]
    wide = constant[2].astype(np.float64).T.copy()
    _put(model, constant, PRODUCTS[how](wide, random).T)
    return f"{how} {constant[2].shape}"


def scale_changed(model: Any, random: np.random.Generator) -> str:
    products = [c for c in _constants(model, "FULLY_CONNECTED", 1) if c[1].type == 9]
    if not products:
        raise NoPlace("scales")
    _, tensor, _ = products[int(random.integers(len(products)))]
    for graph in model.subgraphs:
        for other in graph.tensors:
            if (
                other.buffer == tensor.buffer
                and other.quantization is not None
                and other.quantization.scale is not None
            ):
                other.quantization.scale = np.asarray(other.quantization.scale, np.float32) * np.float32(1.5)
    return "x 1.5"


def vector_changed(model: Any, random: np.random.Generator, *, op: str, place: int, how: str) -> str:
    found = [c for c in _constants(model, op, place) if c[2].size > 1 and c[2].dtype != np.int8]
    found = [c for c in found if max(shape_of(c[1])) == c[2].size]
    if not found:
        raise NoPlace(f"vectors of {op}")
    constant = found[int(random.integers(len(found)))]
    values = constant[2].astype(np.float64)
    if how == "zeroed":
        values[:] = 0
    elif how == "x10":
        values.reshape(-1)[int(random.integers(values.size))] *= 10
    else:
        values = np.roll(values.reshape(-1), 1).reshape(values.shape)
    _put(model, constant, values)
    return f"{how} [{values.size}]"


def longest_negated(model: Any, _random: np.random.Generator) -> str:
    """The last layer of the longest signature's own graph has the opposite weights."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    lengths = {
        int(text(s.signatureKey).rpartition("_")[2]): s
        for s in model.signatureDefs
        if text(s.signatureKey)[-1].isdigit()
    }
    if len(lengths) < 2 or len({s.subgraphIndex for s in lengths.values()}) < len(lengths):
        raise NoPlace("a graph for each length")
    graph = model.subgraphs[lengths[max(lengths)].subgraphIndex]
    layers = [op for op in graph.operators if code_of(model, op) == BuiltinOperator.FULLY_CONNECTED]
    if not layers:
        raise NoPlace("a last layer")
    op, makers = layers[-1], {int(t): o for o in graph.operators for t in o.outputs}
    new = list(inputs_of(op))
    for place in range(1, len(new)):
        number = new[place]
        if number < 0:
            continue
        maker = makers.get(number)
        tensor = graph.tensors[inputs_of(maker)[0] if maker is not None else number]
        kind = NUMBERS.get(tensor.type)
        if kind is None or tensor.type == INT4:
            raise NoPlace("weights of a known type")
        values = -bytes_of(model, tensor.buffer).view(kind).reshape(shape_of(tensor))
        made = add_tensor(graph, "negated", values.shape, tensor.type, add_buffer(model, values))
        graph.tensors[made].quantization = tensor.quantization
        if maker is not None:
            maker.inputs = np.array([made], np.int32)
        else:
            new[place] = made
    op.inputs = np.array(new, np.int32)
    return f"{max(lengths)} tokens"


def mediapipe_labels(folder: Path, _random: np.random.Generator) -> str:
    return _archive_changed(folder, "labels.txt")


def mediapipe_words(folder: Path, _random: np.random.Generator) -> str:
    return _archive_changed(folder, "vocab.txt")


def _archive_changed(folder: Path, name: str) -> str:
    path = folder / "model-mediapipe.tflite"
    found = _archive(path) if path.is_file() else {}
    if name not in found:
        raise NoPlace(name)
    lines = found[name].decode().split("\n")[:-1]
    found[name] = ("\n".join([*lines[1:], lines[0]]) + "\n").encode()
    model = read_flat(path)
    made = path.with_suffix(".new")
    write_flat(model, made, inline=True)
    made.rename(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for entry, content in found.items():
            archive.writestr(zipfile.ZipInfo(entry), content)
    return f"{name} turned by one"


TFLITE_KINDS: dict[str, Plant] = {
    **{f"words: {h}": changed(partial(rows_changed, which=0, how=h)) for h in ("one", "few", "half", "off by one")},
    **{f"positions: {h}": changed(partial(rows_changed, which=1, how=h)) for h in ("last", "one", "off by one")},
    **{f"product: {h}": changed(partial(product_changed, how=h)) for h in PRODUCTS},
    "weight scale x1.5": changed(scale_changed),
    "bias zeroed": changed(partial(vector_changed, op="FULLY_CONNECTED", place=2, how="zeroed")),
    "bias turned": changed(partial(vector_changed, op="FULLY_CONNECTED", place=2, how="turned")),
    "gain x10": changed(partial(vector_changed, op="MUL", place=1, how="x10")),
    "gain turned": changed(partial(vector_changed, op="MUL", place=1, how="turned")),
    "shift zeroed": changed(partial(vector_changed, op="SUB", place=1, how="zeroed")),
    "longest signature negated": changed(longest_negated),
    "mediapipe: labels": mediapipe_labels,
    "mediapipe: words": mediapipe_words,
    "mediapipe: product zeroed": changed(partial(product_changed, how="zeroed"), "model-mediapipe.tflite"),
}
