"""Two packages side by side: their manifests, the operators of their files, and what both answer to the same texts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ExportError
from converter.examples import Example
from converter.package.manifest import model_bytes, model_files, read_manifest
from converter.report.beside import with_times

if TYPE_CHECKING:
    from converter.package.answer import Opened

NEW_TOKENS = 32
"""How much of a continuation is compared."""
SAME_COSINE = 0.99
"""Vectors at least this close count as the same answer."""


@dataclass(frozen=True)
class ChangedAnswer:
    """A text to which two packages answer differently."""

    text: str
    old: str
    new: str


@dataclass(frozen=True)
class Answers:
    """What two packages answered to the same texts; `reason` says why they were not asked."""

    n_texts: int = 0
    n_same: int = 0
    changed: tuple[ChangedAnswer, ...] = ()
    source: str = ""
    """Where the texts are from."""
    measure: str = "the same answer"
    reason: str = ""


@dataclass(frozen=True)
class PackageDiff:
    """How a package differs from an older one of its name."""

    name: str
    facts: Mapping[str, dict[str, Any]]
    """Each fact of the manifests that differs, with `old` and `new`."""
    size_bytes: tuple[int, int]
    milliseconds: tuple[float | None, float | None]
    status: tuple[str, str]
    metric: Mapping[str, tuple[float | None, float | None]]
    operators: Mapping[str, tuple[int, int]]
    """How often each operator stands in the files, where that differs."""
    answers: Answers


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each fact of two manifests that differs, with its old and new value; None where one side lacks it."""
    before, after = _facts(old), _facts(new)
    keys = [*before, *(k for k in after if k not in before)]
    return {k: {"old": before.get(k), "new": after.get(k)} for k in keys if before.get(k) != after.get(k)}


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    gate = manifest.get("gate", {})
    made = {key: manifest.get(key) for key in ("target", "precision", "task")}
    made |= {f"source.{key}": value for key, value in manifest.get("source", {}).items()}
    made |= {f"tool.{key}": value for key, value in manifest.get("tool", {}).items()}
    made |= {f"version.{key}": value for key, value in manifest.get("versions", {}).items()}
    made |= {"status": gate.get("status"), "agreement": gate.get("agreement"), "probes": gate.get("n_probes")}
    made |= {f"metric.{key}": value for key, value in gate.get("metric", {}).items()}
    made |= {f"milliseconds.{key}": value for key, value in gate.get("milliseconds", {}).items()}
    made |= {f"check.{c['name']}": c.get("value") for c in gate.get("checks", [])}
    made["stages"] = [r["stage"] for r in manifest.get("records", [])]
    for name, file in manifest.get("files", {}).items():
        made |= {f"size.{name}": file.get("size_bytes"), f"file.{name}": file.get("sha256", "")[:12]}
    return made


def compare_packages(old: Path, new: Path, texts: Sequence[str] | None = None, *, threads: int = 1) -> PackageDiff:
    """Compare two sealed packages, and run both on `texts`, or on the golden texts of the two.

    Raises:
        PackageDamaged: one of them is not as it was sealed.

    """
    before, after = (with_times(f, read_manifest(f)) for f in (old, new))
    found = _operators(old, before), _operators(new, after)
    metrics = before["gate"].get("metric", {}), after["gate"].get("metric", {})
    return PackageDiff(
        name=new.resolve().name,
        facts=differences(before, after),
        size_bytes=(model_bytes(before), model_bytes(after)),
        milliseconds=(_milliseconds(before), _milliseconds(after)),
        status=(str(before["gate"].get("status")), str(after["gate"].get("status"))),
        metric={n: (metrics[0].get(n), metrics[1].get(n)) for n in sorted({*metrics[0], *metrics[1]})},
        operators={n: (found[0][n], found[1][n]) for n in sorted({*found[0], *found[1]}) if found[0][n] != found[1][n]},
        answers=_answers((old, before), (new, after), texts, threads),
    )


def _milliseconds(manifest: Mapping[str, Any]) -> float | None:
    """Return the latency that the export measured."""
    found = manifest["gate"]["milliseconds"].get("package")
    return float(found) if isinstance(found, (int, float)) else None


def _operators(folder: Path, manifest: Mapping[str, Any]) -> Counter[str]:
    """Count the operators of all files of a package by name; in ONNX those of functions and branches too."""
    made: Counter[str] = Counter()
    for name in sorted(set(model_files(manifest).values())):
        if name.endswith(".onnx"):
            made += _onnx_operators(folder / name)
        elif name.endswith(".tflite"):
            made += _tflite_operators(folder / name)
    return made


def _onnx_operators(path: Path) -> Counter[str]:
    from converter.onnx.read import read_proto

    proto, _ = read_proto(path)
    made: Counter[str] = Counter()
    waiting = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        made[node.op_type] += 1
        graphs = (graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs))
        waiting += [inner for graph in graphs for inner in graph.node]
    return made


def _tflite_operators(path: Path) -> Counter[str]:
    try:
        from ai_edge_litert.schema_py_generated import BuiltinOperator
    except ImportError:  # the extra `mobile`: then nothing runs it either, which is said
        return Counter()
    from converter.tflite.file import code_of, read_flat

    names = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
    model = read_flat(path)
    return Counter(names.get(code_of(model, op), "CUSTOM") for graph in model.subgraphs for op in graph.operators)


def _answers(
    old: tuple[Path, Mapping[str, Any]], new: tuple[Path, Mapping[str, Any]], texts: Sequence[str] | None, threads: int
) -> Answers:
    from converter.package.answer import open_for_answers

    if old[1]["task"] != new[1]["task"]:
        return Answers(reason=f"the tasks differ: {old[1]['task']} and {new[1]['task']}")
    examples = _golden([new[0], old[0]]) if texts is None else [Example(text) for text in texts]
    source = "the golden texts of both packages" if texts is None else "the given texts"
    try:
        pair = [open_for_answers(folder, threads=threads) for folder, _ in (old, new)]
        asked = [(e, _ask(pair[0], e), _ask(pair[1], e)) for e in examples]
    except ExportError as error:
        if error.exit_code not in {2, 5}:  # a damaged package is an error; a missing runtime or pair of texts is not
            raise
        return Answers(reason=str(error))
    changed = tuple(ChangedAnswer(e.text, a[0], b[0]) for e, a, b in asked if not _same(a, b))
    vectors = any(_is_vector(a[1]) for _, a, _ in asked)
    measure = f"vectors with a cosine of at least {SAME_COSINE:g}" if vectors else "the same answer"
    return Answers(len(asked), len(asked) - len(changed), changed, source, measure)


def _golden(folders: Sequence[Path]) -> list[Example]:
    from converter.package.golden import read_golden

    found = [e for folder in folders for e in read_golden(folder).examples if e.window == 0]
    return list({(e.text, e.pair): e for e in found}.values())


def _ask(opened: "Opened", example: Example) -> tuple[str, Any]:
    """Return the answer in words, and what is compared: the words, or a vector."""
    if opened.writes:
        limits = {"sample": False, "beams": 1, "max_new_tokens": NEW_TOKENS}
        said = opened.write(example.text, opened.settings(limits), lambda _piece: None)
        return said, said
    found = opened.answer(example.text, example.pair)
    if "sentence_embedding" in found:
        return str(found["answer"]), list(found["sentence_embedding"])
    return (str(found["answer"]), found["tags"]) if "tags" in found else (str(found["answer"]), str(found["answer"]))


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], float)


def _same(old: tuple[str, Any], new: tuple[str, Any]) -> bool:
    import numpy as np

    if not _is_vector(old[1]) or not _is_vector(new[1]):
        return bool(old[1] == new[1])
    a, b = (np.asarray(values[1], np.float64).ravel() for values in (old, new))
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return a.shape == b.shape and bool(size == 0 or a @ b / size >= SAME_COSINE)
