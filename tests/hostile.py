"""Models as nobody should send them: one fault a folder, planted into a copy of a tiny model."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Plant = Callable[[Path], Any]
READ = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
CONTENTS: dict[str, bytes] = {
    "list": b"[]",
    "number": b"7",
    "null": b"null",
    "nested": b'{"a":' * 500 + b"1" + b"}" * 500,
    "nested far": b"[" * 100_000,
    "long number": b'{"a":' + b"9" * 5000 + b"}",
    "NaN": b'{"a": NaN}',
    "no UTF-8": b"\xff\xfe{",
    "empty": b"",
    "half a pair": b'{"a": "\\ud800"}',
    "many values": b'{"a": [' + b"[]," * 6_000_000 + b"[]]}",
}
ABSURD: tuple[Any, ...] = (10**9, 10**18, 10**30, -1, 0, "x", [], {"a": 1}, 1.5, "\x1b[31m")
SIZES = ("num_hidden_layers", "num_labels", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")


def edit(folder: Path, name: str = "config.json", **values: Any) -> None:
    path = folder / name
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(table | values), encoding="utf-8")


def put(folder: Path, name: str, content: bytes) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)


def pipe(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def endless(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/dev/zero")


def header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Let `change` edit the header of the weights, or give bytes to put in its place."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    table = json.loads(raw[8 : 8 + length])
    made = change(table)
    new = made if isinstance(made, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


def tensors(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [told for name, told in table.items() if name != "__metadata__"]


def _content(name: str, content: bytes) -> Plant:
    return lambda folder: put(folder, name, content)


def _value(name: str, key: str, value: Any) -> Plant:
    return lambda folder: edit(folder, name, **{key: value})


def _of_name(plant: Callable[[Path, str], None], name: str) -> Plant:
    return lambda folder: plant(folder, name)


REFUSED: dict[str, Plant] = {
    **{f"{name} is a pipe": _of_name(pipe, name) for name in (*READ, "vocab.txt", "README.md", "model.safetensors")},
    **{f"{name} is endless": _of_name(endless, name) for name in (*READ, "README.md", "model.safetensors")},
    **{f"{name}: {what}": _content(name, content) for name in READ for what, content in CONTENTS.items()},
    **{f"{key} = {v!r:.20}": _value("config.json", key, v) for key in SIZES[:5] for v in ABSURD},
    "a header of 90 MB": lambda f: header(f, lambda t: t["__metadata__"].update(x="y" * 90_000_000)),
    "a header of too many tensors": lambda f: header(
        f, lambda t: t.update({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(350_000)})
    ),
    "offsets below 0": lambda f: header(f, lambda t: tensors(t)[0].update(data_offsets=[-4, 4])),
    "offsets that overlap": lambda f: header(
        f, lambda t: [x.update(data_offsets=[0, x["data_offsets"][1] - x["data_offsets"][0]]) for x in tensors(t)]
    ),
    "a shape beyond the file": lambda f: header(f, lambda t: tensors(t)[0].update(shape=[2**62, 4])),
    "an unknown type": lambda f: header(f, lambda t: tensors(t)[0].update(dtype="X9")),
    "a header that is a list": lambda f: header(f, lambda _: b"[]"),
    "a header nested far": lambda f: header(f, lambda _: b"[" * 10_000),
    "a header longer than the file": lambda f: put(f, "model.safetensors", struct.pack("<Q", 2**63) + b"{}"),
    "weights that are a folder": lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()),
    "labels that are lists": lambda f: edit(f, id2label={"0": [], "1": {}, "2": "c"}),
    "a length that is text": lambda f: edit(f, "tokenizer_config.json", model_max_length="x"),
    "a vocabulary beyond 32 bits": lambda f: _vocabulary(f, 4_000_000_000),
    "a vocabulary below 0": lambda f: _vocabulary(f, -4),
}


def _vocabulary(folder: Path, index: int) -> None:
    table = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    table["model"]["vocab"]["hostile"] = index
    (folder / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
