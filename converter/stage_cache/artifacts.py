"""Artifacts to files and back: safetensors, ONNX and TFLite files, never pickle."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from converter.artifact import Artifact, TorchModel
from converter.errors import ExportError
from converter.jsonfile import read_json, write_json
from converter.onnx.model import OnnxModel
from converter.tflite.model import TfliteModel

SETTINGS = "configuration.json"
TOKENIZER = "tokenizer.json"
CHANGED = frozenset({"module", "shape_map", "tokenizer", "task", "source_ids"})
"""Fields of a `TorchModel` that stages change; an outcome that differs in another is not kept."""


class NotKept(Exception):
    """An artifact cannot be kept, or not be opened again; says why."""


def write_artifact(made: Artifact, given: Artifact, folder: Path) -> dict[str, Any]:
    """Write what a stage made of `given` to an empty folder; returns what `read_artifact` needs to know.

    Raises:
        NotKept: it is of a kind, or changed in a way, that cannot be read again.

    """
    if isinstance(made, OnnxModel):
        return {"kind": "onnx", "files": _copy_graphs(made, folder), "precision": made.precision}
    if isinstance(made, TfliteModel):
        shutil.copyfile(made.path, folder / made.path.name)
        table = {"file": made.path.name, "lengths": list(made.lengths), "outputs": list(made.output_names)}
        return {"kind": "tflite", **table, "precision": made.precision}
    if isinstance(made, TorchModel) and isinstance(given, TorchModel):
        return {"kind": "torch", **_write_model(made, given, folder)}
    raise NotKept(f"{type(made).__name__} made of {type(given).__name__}")


def read_artifact(table: Mapping[str, Any], given: Artifact, folder: Path) -> Artifact:
    """Open what `write_artifact` wrote, for the same `given`.

    Raises:
        NotKept: it does not fit `given`, or cannot be read.

    """
    source = given if isinstance(given, TorchModel) else getattr(given, "source", None)
    if not isinstance(source, TorchModel):
        raise NotKept(f"a {type(given).__name__} has no source")
    try:
        if table["kind"] == "onnx":
            files = {graph: folder / name for graph, name in table["files"].items()}
            return OnnxModel(files, source, table["precision"])
        if table["kind"] == "tflite":
            lengths, outputs = tuple(table["lengths"]), tuple(table["outputs"])
            return TfliteModel(folder / table["file"], source, lengths, outputs, table["precision"])
        return _read_model(table, source, folder)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, ExportError) as error:
        raise NotKept(f"{type(error).__name__}: {error}") from None


def _copy_graphs(made: OnnxModel, folder: Path) -> dict[str, str]:
    """Copy each graph with the files of weights beside it; graphs of several folders keep their own."""
    rooms = {room: f"{i}" for i, room in enumerate(dict.fromkeys(p.parent for p in made.files.values()))}
    for path in dict.fromkeys(made.files.values()):
        (folder / rooms[path.parent]).mkdir(exist_ok=True)
        for one in path.parent.glob(path.name + "*"):
            shutil.copyfile(one, folder / rooms[path.parent] / one.name)
    return {graph: f"{rooms[path.parent]}/{path.name}" for graph, path in made.files.items()}


def _write_model(made: TorchModel, given: TorchModel, folder: Path) -> dict[str, Any]:
    from converter.model_folder.replacement_map import StandIns
    from converter.model_folder.replacements import own_state

    if made.offloaded:
        raise NotKept("its weights are on disk already")
    other = [f.name for f in fields(made) if f.name not in CHANGED and getattr(made, f.name) != getattr(given, f.name)]
    if other:
        raise NotKept(f"it differs in {', '.join(other)}")
    trimmed = made.tokenizer is not given.tokenizer
    if not trimmed and made.task is not given.task:
        raise NotKept("it has another task")
    stand_ins = StandIns.of(made.module)
    state = own_state(made.module) if stand_ins.ties else made.module.state_dict()
    made.module.save_pretrained(folder, state_dict=state)  # type: ignore[operator]
    write_json(folder / SETTINGS, json.loads(made.config.to_json_string(use_diff=False)))
    if not stand_ins.is_empty:
        stand_ins.save(folder)
    if made.shape_map is not None:
        made.shape_map.save(folder)
    if trimmed:
        (folder / TOKENIZER).write_text(made.tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    frozen = [name for name, p in made.module.named_parameters() if not p.requires_grad]
    return {"trimmed": trimmed, "source_ids": list(made.source_ids or ()), "frozen": frozen}


def _read_model(table: Mapping[str, Any], given: TorchModel, folder: Path) -> TorchModel:
    from converter.model_folder.shape_map import ShapeMap

    module = _read_module(given, folder)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in table["frozen"])
    made = replace(given, module=module, shape_map=ShapeMap.load(folder))
    if not table["trimmed"]:
        return made
    from converter.surgery.tokenizer import open_table

    tokenizer = open_table(read_json(folder / TOKENIZER), given.tokenizer)
    task = type(given.task)(module.config, given.task.prompt)
    return replace(made, task=task, tokenizer=tokenizer, source_ids=tuple(table["source_ids"]))


def _read_module(given: TorchModel, folder: Path) -> Any:
    import torch
    import transformers

    from converter.model_folder.compressed import load_pruned
    from converter.model_folder.replacement_map import StandIns
    from converter.model_folder.shape_map import ShapeMap

    settings = read_json(folder / SETTINGS)
    config = type(given.config).from_dict(settings)
    attention = given.config._attn_implementation  # noqa: SLF001 - there is no public reader
    auto = getattr(transformers, given.task.auto_class)
    with torch.random.fork_rng(devices=[]):  # drawn weights are replaced, but drawing moves the generator
        module: Any = load_pruned(
            folder, auto, config, attention, ShapeMap.load(folder), StandIns.load(folder) or StandIns()
        )
    found = json.loads(module.config.to_json_string(use_diff=False))
    unlike = [k for k in {*settings, *found} - {"_name_or_path", "dtype"} if settings.get(k) != found.get(k)]
    if type(module) is not type(given.module) or unlike:
        raise NotKept(f"it opens as another model: {', '.join(sorted(unlike)) or type(module).__name__}")
    return module
