"""Opening and verifying a sealed folder: offline, without the source."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import ExportError, PackageDamaged, RuntimeMissing
from converter.generate.graphs import in_order
from converter.graphs import MODEL, GraphSpec, ModelFacts, read_spec
from converter.package.machine import IDS_OF, defaults_of, tolerance_here
from converter.package.manifest import check_files, model_files, read_manifest

if TYPE_CHECKING:
    from converter.examples import Encoding
    from converter.package.golden import Golden
    from converter.target import Runner
    from converter.task import Task


def verify_package(folder: Path, *, threads: int = 1) -> dict[str, Any]:
    """Check hashes and signature, and replay the golden vectors in the runtime; returns what was found.

    Raises:
        PackageDamaged: names what is wrong.
        RuntimeMissing: the package's runtime is not installed; hashes were checked before that.

    """
    from converter.package.golden import read_golden, replay
    from converter.validate.answers import RunFailed
    from converter.validate.interface import load_tokenizer

    manifest = read_manifest(folder)
    _check_complete(folder, manifest)
    n_files = check_files(folder, manifest)
    golden = read_golden(folder)
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        raise PackageDamaged(f"the tokenizer does not load ({error})", where=str(folder)) from None
    task = task_of(folder, manifest)
    task.read_folder(folder, tokenizer, int(manifest["max_length"]))
    specs = read_specs(folder, manifest)
    runner = open_runner(folder, manifest, specs, threads)
    _check_signature(folder, manifest, runner)
    encodings = _check_ids(folder, golden, task, tokenizer, int(manifest["max_length"]))
    _check_defaults(folder, golden, tokenizer, task)
    # More threads sum in another order.
    elsewhere = float(manifest["replay_tolerance"])
    tolerance = tolerance_here(golden.machine, runner, elsewhere) if threads == 1 else elsewhere
    try:
        found = replay(golden, task, encodings, runner, specs, tolerance)
    except RunFailed as error:
        raise PackageDamaged(str(error), where=str(folder)) from error
    return {
        "target": manifest["target"],
        "precision": manifest["precision"],
        "runtime": runner.runtime,
        "files": n_files,
        "golden_texts": found.n_texts,
        "change": found.change,
        "tolerance": tolerance,
        "same_machine_class": tolerance < elsewhere,
        "same_answers": found.n_decisions,
        "gate": manifest["gate"]["status"],
        **_safe_on(manifest),
        "not_run": [c["name"] for c in manifest["gate"]["checks"] if c["status"] == "NOT_RUN"],
    }


def _check_defaults(folder: Path, golden: "Golden", tokenizer: Any, task: "Task") -> None:
    """What users get without asking must be what it was when the package was sealed."""
    found = defaults_of(folder, tokenizer, task)
    for name, wanted in golden.defaults.items():
        if name.startswith(IDS_OF) and name not in found:
            continue  # recorded by a version with other text
        if found.get(name) != wanted:
            raise PackageDamaged(
                f"{name} is {found.get(name)} in what ships, recorded was {wanted}",
                where=str(folder),
                hint="users get other answers than those that the package was proven on",
            )


def _safe_on(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the instruction sets that the manifest calls safe; nothing where it says nothing of the kind."""
    found = manifest["gate"].get("facts")
    sets = found.get("instruction_sets") if isinstance(found, dict) else None
    safe = sets.get("safe") if isinstance(sets, dict) else None
    return {"instruction_sets": safe} if isinstance(safe, list) else {}


def _check_complete(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Trust nothing of what is read here: anyone can write a manifest whose digest is right."""
    gate, checks = manifest.get("gate"), []
    sound = isinstance(gate, dict) and isinstance(gate.get("status"), str) and isinstance(gate.get("checks"), list)
    if isinstance(gate, dict) and sound:
        checks = [c for c in gate["checks"] if not isinstance(c, dict) or not {"name", "status"} <= c.keys()]
    wanted = (("max_length", int), ("replay_tolerance", (int, float)), ("target_options", dict))
    missing = [name for name, kind in wanted if not isinstance(manifest.get(name), kind)]
    missing += [] if sound and not checks else ["gate"]
    if missing:
        raise PackageDamaged(
            f"the manifest has no readable {missing[0]}",
            where=str(folder),
            hint="download the package again, or rebuild it",
        )


def open_sealed(folder: Path, *, threads: int = 1) -> "Runner":
    """Open a sealed package in its runtime, its files checked."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return open_runner(folder, manifest, read_specs(folder, manifest), threads)


def read_specs(folder: Path, manifest: Mapping[str, Any]) -> Mapping[str, GraphSpec]:
    """Return what each graph of a package takes and gives: as its manifest says, else (format 1) as its task does.

    Raises:
        PackageDamaged: what the manifest says cannot be read.

    """
    try:
        if all("inputs" in graph for graph in manifest["graphs"].values()):
            # A manifest is sorted by name.
            return in_order({name: read_spec(name, graph) for name, graph in manifest["graphs"].items()})
        signature = manifest["graphs"][MODEL]["signature"]
        inputs, outputs = (tuple(str(t["name"]) for t in signature[kind]) for kind in ("inputs", "outputs"))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise PackageDamaged(f"the manifest's graphs cannot be read ({error!r})", where=str(folder)) from None
    from converter.validate.interface import load_tokenizer

    facts = ModelFacts.of(load_tokenizer(folder), inputs, embeds="sentence_embedding" in outputs)
    declared = task_of(folder, manifest).graphs(facts)
    return {name: spec.giving(outputs) for name, spec in declared.items()}


def task_of(folder: Path, manifest: Mapping[str, Any]) -> "Task":
    """Return the task of a package, by its manifest and its configuration."""
    import transformers

    from converter.registry import task_class

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise PackageDamaged(f"config.json does not load ({error})", where=str(folder)) from None
    return task_class(manifest["task"])(config, str((manifest.get("prompt") or {}).get("text", "")))


def open_runner(folder: Path, manifest: Mapping[str, Any], specs: Mapping[str, GraphSpec], threads: int) -> "Runner":
    """Open the files of a package in its runtime.

    Raises:
        RuntimeMissing: it is not installed.
        PackageDamaged: it does not open them.

    """
    from converter.binding import bind
    from converter.registry import target_class

    cls = target_class(manifest["target"])
    target = bind(cls, manifest.get("target_options", {}), f"{folder}: target_options")
    try:
        return target.open(folder, specs, threads)
    except ExportError:
        raise
    except ImportError as error:
        extra = f"[{cls.extra}]" if cls.extra else ""
        raise RuntimeMissing(
            f"{error.name or error} is not installed, and {cls.name} packages run in it",
            hint=f"python -m pip install 'plm-export{extra}'",
        ) from None
    except Exception as error:  # noqa: BLE001 - each runtime raises its own classes on a file that it cannot read
        raise PackageDamaged(
            f"the runtime does not open {', '.join(model_files(manifest).values())} ({error})", where=str(folder)
        ) from None


def signatures(runner: "Runner") -> dict[str, dict[str, Any]]:
    """Return inputs and outputs of each graph, as the runtime tells of them, in the form that a manifest has."""
    return {
        name: {
            kind: [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in tensors]
            for kind, tensors in (("inputs", graph.inputs), ("outputs", graph.outputs))
        }
        for name, graph in runner.graphs.items()
    }


def _check_signature(folder: Path, manifest: Mapping[str, Any], runner: "Runner") -> None:
    found = signatures(runner)
    for name, graph in manifest["graphs"].items():
        if graph.get("signature") != found.get(name):
            raise PackageDamaged(
                f"inputs and outputs of {name} are {found.get(name)}, the manifest says {graph.get('signature')}",
                where=str(folder / graph["file"]),
            )


def _check_ids(folder: Path, golden: "Golden", task: "Task", tokenizer: Any, max_length: int) -> "list[Encoding]":
    from converter.package.golden import ANSWER, WRITTEN
    from converter.validate.answers import shorten

    made = []
    for example, wanted in zip(golden.examples, golden.ids, strict=True):
        found = task.encode(tokenizer, example, max_length)
        for name, ids in wanted.items():
            if name in (ANSWER, WRITTEN):
                continue
            if name not in found.inputs or not np.array_equal(found.inputs[name], ids):
                raise PackageDamaged(
                    f"the tokenizer gives different {name} than recorded for {shorten(example.text)!r}",
                    where=str(folder),
                    hint="another version of transformers or tokenizers can cause this; the manifest has the versions",
                )
        writer: Any = task
        made.append(writer.with_answer(found, wanted[ANSWER]) if ANSWER in wanted else found)
    return made
