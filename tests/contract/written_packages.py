"""Tiny packages that write text, what they are judged by, and the faults that are planted into them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.artifact import Bundle, TorchModel
from converter.package.manifest import model_files, read_manifest
from converter.reference import Reference
from converter.stage import SILENT
from converter.validate.checks import Check, Status


@dataclass
class Proof:
    """What packages of one tiny model are judged by."""

    source: TorchModel
    reference: Reference

    def of(self, folder: Path) -> dict[str, Check]:
        from converter.precision import Limits
        from converter.validate.owner import OwnerVerdict
        from converter.validate.package_check import evaluate_package
        from converter.validate.proof import ProofContext
        from targets.cpu_int8 import CpuInt8

        bundle = Bundle(folder, model_files(read_manifest(folder)), self.source)
        owner = OwnerVerdict(Check("owner's library", Status.PASS))
        context = ProofContext(folder, self.reference, owner)
        limits = Limits(max_error=1e-4, agreement=0.999, stability=0.999)
        made = evaluate_package(CpuInt8(), bundle, self.source, limits, context, require_device=False)
        return {c.name: c for c in made.checks}

    def failed(self, folder: Path) -> set[str]:
        return {name for name, check in self.of(folder).items() if check.status is Status.FAIL}


def proof_of(folder: Path, texts: int = 16) -> Proof:
    from converter.data.probes import builtin_examples, choose_probes
    from converter.model_folder.load import load_source
    from converter.reference import capture_reference

    source = load_source(str(folder))
    return Proof(source, capture_reference(source, choose_probes((), builtin_examples(source), texts), SILENT))


def short_answers(folder: Path) -> Path:
    """A model that was taught nothing seldom stops: let it stop after twelve tokens."""
    return with_settings(folder, {"max_new_tokens": 12})


def with_settings(folder: Path, more: dict[str, Any]) -> Path:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


def edited(folder: Path, name: str = "model") -> Iterator[Any]:
    import onnx

    path = folder / "onnx" / f"{name}.onnx"
    model = onnx.load(path)
    yield model
    onnx.save(model, path)


def read_through(model: Any, name: str, op: str, constant: int) -> None:
    """Let all that reads the input `name` read `op(name, constant)` instead."""
    import onnx

    for node in model.graph.node:
        node.input[:] = [f"{name}.planted" if n == name else n for n in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(constant, dtype=np.int64), "planted"))
    model.graph.node.insert(0, onnx.helper.make_node(op, [name, "planted"], [f"{name}.planted"]))


def positions_off_by_one(folder: Path) -> None:
    for model in edited(folder):
        read_through(model, "position_ids", "Add", 1)


def replaced_output(model: Any, name: str, nodes: list[tuple[str, list[str], str]], constants: dict[str, Any]) -> None:
    """Let `nodes` (operation, inputs, output) make the output `name` of what made it, which they read as `own`."""
    import onnx

    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}.own" if n == name else n for n in names]
    for constant, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), f"{name}.{constant}"))
    for op, inputs, output in nodes:
        own = [f"{name}.{i}" for i in inputs]
        model.graph.node.append(onnx.helper.make_node(op, own, [f"{name}.{output}" if output else name]))


def cache_cut(folder: Path) -> None:
    """Positions of the cache past the twelfth are forgotten."""
    length = [("Shape", ["own"], "shape"), ("Gather", ["shape", "two"], "length")]
    kept = [("Range", ["zero", "length", "one"], "places"), ("Less", ["places", "limit"], "within")]
    cast = [("Where", ["within", "keep", "drop"], "flat"), ("Unsqueeze", ["flat", "last"], "mask")]
    for model in edited(folder):
        for name in [o.name for o in model.graph.output if o.name.startswith("present")]:
            replaced_output(
                model,
                name,
                [*length, *kept, *cast, ("Mul", ["own", "mask"], "")],
                {"two": 2, "zero": 0, "one": 1, "limit": 12, "last": np.array([1]), "keep": np.float32(1)}
                | {"drop": np.float32(0)},
            )


def tied_table_doubled(folder: Path) -> None:
    """The output layer gets a turned copy of the table of its own, as constant folding makes it."""
    import onnx

    for model in edited(folder):
        (turned,) = (n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in tables_of(model))
        table = onnx.numpy_helper.to_array(tables_of(model)[turned.input[0]])
        model.graph.initializer.append(onnx.numpy_helper.from_array(table.T.copy(), turned.output[0]))
        model.graph.node.remove(turned)


def tables_of(model: Any) -> dict[str, Any]:
    return {i.name: i for i in model.graph.initializer if len(i.dims) == 2}


def cross_keys_updated_twice(folder: Path) -> None:
    """Every step writes the cross keys anew, of what it had written before."""
    for model in edited(folder, "decoder_model_merged"):
        for name in [o.name for o in model.graph.output if ".encoder.key" in o.name]:
            replaced_output(model, name, [("Add", ["own", "own"], "")], {})
