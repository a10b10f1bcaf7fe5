"""Opening and verifying a sealed folder: offline, without the source."""

from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import ExportError, PackageDamaged, RuntimeMissing
from converter.generate.graphs import in_order
from converter.graphs import MODEL, GraphSpec, ModelFacts, read_spec
from converter.package.machine import IDS_OF, VOCABULARY_OF, as_recorded, defaults_of, tolerance_here
from converter.package.manifest import check_files, model_files, read_manifest, read_whole
from converter.package.shipped import Shipped

if TYPE_CHECKING:
    from converter.examples import Encoding
    from converter.package.golden import Golden, Replay
    from converter.package.schema import Manifest
    from converter.target import Runner, Target
    from converter.task import Task


STEPS = ("manifest", "files", "task", "model", "golden texts", "other files", "gate")
"""What `verify` does, in this order."""


def verify_package(folder: Path, *, threads: int = 1, begin: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Check hashes and what the manifest says, and replay all that is shipped; returns what was found.

    `begin` is told of each of `STEPS` before it is done.

    Raises:
        PackageDamaged: names what is wrong.
        RuntimeMissing: the package's runtime is not installed; hashes were checked before that.
        GateFailed: nothing is wrong with it, but it was never proven.

    """
    from converter.package import claims

    begin("manifest")
    table, manifest = read_whole(folder)
    target = claims.target_of(folder, table)
    claims.check_tolerance(folder, manifest, target)
    begin("files")
    n_files = check_files(folder, table)
    shipped = _open(folder, table, manifest, target, threads, begin)
    begin("golden texts")
    tolerance = _tolerance(shipped, threads)
    found = _replay(shipped, tolerance)
    claims.check_answers(folder, manifest, found.n_decisions)
    begin("other files")
    _check_stored(target, shipped)
    others = _check_others(target, shipped)
    begin("gate")
    claims.check_proven(folder, manifest)
    return {
        "target": manifest.target,
        "precision": manifest.precision,
        "runtime": shipped.runner.runtime,
        "files": n_files,
        "golden_texts": found.n_texts,
        "change": found.change,
        "tolerance": tolerance,
        "same_machine_class": tolerance < manifest.replay_tolerance,
        "same_answers": found.n_decisions,
        **({"also_replayed": list(others)} if others else {}),
        "gate": manifest.gate.status,
        **claims.safe_on(manifest),
        "not_run": [c.name for c in manifest.gate.checks if c.status == "NOT_RUN"],
    }


def _open(
    folder: Path,
    table: Mapping[str, Any],
    manifest: "Manifest",
    target: "Target",
    threads: int,
    begin: Callable[[str], None],
) -> Shipped:
    """Open task and model of a package, and hold both to its manifest and its golden texts to the tokenizer."""
    from converter.package import claims
    from converter.package.golden import read_golden

    begin("task")
    golden = read_golden(folder)
    claims.check_golden(folder, manifest, golden)
    tokenizer = _load_tokenizer(folder)
    task = task_of(folder, table)
    claims.check_labels(folder, manifest, task)
    claims.check_written(folder, golden, task)
    _read_settings(folder, task, tokenizer, manifest.max_length)
    encodings = _check_ids(folder, golden, task, tokenizer, manifest.max_length)
    _check_defaults(folder, golden, tokenizer, task)
    begin("model")
    specs = read_specs(folder, table)
    claims.check_model_files(folder, manifest, target, specs)
    runner = open_runner(folder, table, specs, threads)
    _check_signature(folder, table, runner)
    claims.check_runner(folder, manifest, runner)
    return Shipped(folder, manifest, task, tokenizer, specs, runner, golden, tuple(encodings))


def _check_defaults(folder: Path, golden: "Golden", tokenizer: Any, task: "Task") -> None:
    """What users get without asking must be what it was when the package was sealed."""
    found = defaults_of(folder, tokenizer, task)
    for name, wanted in golden.defaults.items():
        if name.startswith(IDS_OF) and name not in found:
            continue  # recorded by a version with other text
        shipped = as_recorded(name, found.get(name), wanted)
        if shipped != wanted:
            other = f"{name} is {shipped} in what ships, recorded was {wanted}"
            if name == VOCABULARY_OF:  # recorded is a digest of it, which says nothing to anyone
                other = "the tokenizer's vocabulary is another one than when the package was sealed"
            raise PackageDamaged(
                other,
                where=str(folder),
                hint="users get other answers than those that the package was proven on",
            )


def _load_tokenizer(folder: Path) -> Any:
    from converter.validate.interface import load_tokenizer

    try:
        return load_tokenizer(folder)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        raise PackageDamaged(f"the tokenizer does not load ({error})", where=str(folder)) from None


def _read_settings(folder: Path, task: "Task", tokenizer: Any, max_length: int) -> None:
    try:
        task.read_folder(folder, tokenizer, max_length)
    except (ExportError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PackageDamaged(f"the settings of the task cannot be read ({error})", where=str(folder)) from None


def _tolerance(shipped: Shipped, threads: int) -> float:
    """Return what a replay may change: more threads sum in another order than the one that sealed it."""
    elsewhere = shipped.manifest.replay_tolerance
    return tolerance_here(shipped.golden.machine, shipped.runner, elsewhere) if threads == 1 else elsewhere


def _replay(shipped: Shipped, tolerance: float) -> "Replay":
    from converter.package.golden import replay
    from converter.validate.answers import RunFailed

    golden, task = shipped.golden, shipped.task
    try:
        return replay(golden, task, shipped.encodings, shipped.runner, shipped.specs, tolerance)
    except RunFailed as error:
        raise PackageDamaged(str(error), where=str(shipped.folder)) from error


def _check_stored(target: "Target", shipped: Shipped) -> None:
    """Hold the weights of the files to what they added up to when the package was sealed."""
    from converter.package.stored_sums import check_sums

    files = dict.fromkeys(target.model_files(shipped.folder, shipped.specs).values())
    try:
        check_sums(shipped.golden.stored, chain.from_iterable(map(target.parameters, files)))
    except ExportError:
        raise
    except Exception as error:  # noqa: BLE001 - each format's reader raises its own classes
        raise PackageDamaged(
            f"the weights cannot be read ({type(error).__name__}: {error})", where=str(shipped.folder)
        ) from None


def _check_others(target: "Target", shipped: Shipped) -> tuple[str, ...]:
    """Let the target replay what else it ships."""
    try:
        return target.check_shipped(shipped)
    except ExportError:
        raise
    except Exception as error:  # noqa: BLE001 - each runtime raises its own classes on a file that it cannot read
        raise PackageDamaged(
            f"a file beside the model cannot be read ({type(error).__name__}: {error})", where=str(shipped.folder)
        ) from None


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

    from converter.model_folder.plausible import check_shipped_settings
    from converter.registry import task_class

    try:
        check_shipped_settings(folder)
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        cls = task_class(manifest["task"])
        made = cls(config, str((manifest.get("prompt") or {}).get("text", "")))
    except ExportError as error:
        raise PackageDamaged(str(error), where=str(folder), hint=error.hint) from None
    except Exception as error:  # noqa: BLE001 - transformers raises whatever a wrong value leads to
        raise PackageDamaged(f"config.json does not load ({error})", where=str(folder)) from None
    return made


def open_runner(folder: Path, manifest: Mapping[str, Any], specs: Mapping[str, GraphSpec], threads: int) -> "Runner":
    """Open the files of a package in its runtime.

    Raises:
        RuntimeMissing: it is not installed.
        PackageDamaged: it does not open them.

    """
    from converter.package.claims import target_of

    target = target_of(folder, manifest)
    cls = type(target)
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
