"""Inputs and outputs by name and type, and the tokenizer as it is shipped."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.target import GraphInfo
from converter.validate.answers import RunFailed, shorten
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.graphs import TensorSpec
    from converter.reference import Probe, Reference
    from converter.target import Runner, TensorInfo
    from converter.task import Task

DTYPES = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of types that numpy names differently."""


def dtype_name(spelled: str) -> str:
    """Return numpy's name of a type, of `tensor(int64)`, `<class 'numpy.int32'>` or `float32`.

    >>> dtype_name("tensor(float)"), dtype_name("<class 'numpy.int32'>")
    ('float32', 'int32')
    """
    name = spelled.strip().removeprefix("tensor(").removesuffix(")")
    name = name.removeprefix("<class '").removesuffix("'>").removeprefix("numpy.")
    return DTYPES.get(name, name)


def check_inputs(runner: "Runner", source: "TorchModel", dtype: str) -> Check:
    """Callers feed what the tokenizer gives: every input must be one of those, in the type they use."""
    checks = [
        _check_specs("inputs", _info(runner, name).inputs, _dtypes(spec.inputs, dtype), set())
        for name, spec in source.specs.items()
    ]
    return next((c for c in checks if c.status is Status.FAIL), checks[-1])


def check_outputs(runner: "Runner", source: "TorchModel", reference: "Reference") -> Check:
    """Outputs carry the source's names, in float32. An embedding package may leave the token vectors out."""
    if source.cache is not None:
        checks = [
            _check_specs("outputs", _info(runner, name).outputs, _dtypes(spec.outputs, "int64"), set())
            for name, spec in source.specs.items()
        ]
        return next((c for c in checks if c.status is Status.FAIL), checks[-1])
    optional = {"last_hidden_state"} if source.head is not None else set()
    *_, last = source.specs
    wanted = dict.fromkeys(reference.output_range, "float32")
    return _check_specs("outputs", _info(runner, last).outputs, wanted, optional)


def _dtypes(tensors: "Sequence[TensorSpec]", integers: str) -> dict[str, str]:
    """Return the type of each tensor, by its name: whole numbers as the target has them."""
    return {t.name: integers if t.dtype == "int64" else t.dtype for t in tensors}


def _info(runner: "Runner", graph: str) -> GraphInfo:
    return runner.graphs.get(graph, GraphInfo((), ()))


def _check_specs(
    name: str, specs: "Sequence[TensorInfo]", wanted: "Mapping[str, str]", optional: "Collection[str]"
) -> Check:
    """`wanted` are types by name; those that are `optional` may be missing."""
    found = [s.name for s in specs]
    needed = set(wanted) - set(optional)
    for spec in specs:
        if spec.name not in needed | set(optional):
            return Check(name, Status.FAIL, detail=f"{spec.name} is unexpected; wanted {_listed(needed)}")
        dtype = wanted.get(spec.name, "float32")
        if dtype_name(spec.dtype) != dtype:
            return Check(name, Status.FAIL, detail=f"{spec.name} is {dtype_name(spec.dtype)}, wanted {dtype}")
    missing = sorted(needed - set(found))
    if missing or not found:
        return Check(name, Status.FAIL, detail=f"{_listed(missing) or 'everything'} is missing; found {_listed(found)}")
    by_type: dict[str, list[str]] = {}
    for spec in specs:
        by_type.setdefault(dtype_name(spec.dtype), []).append(spec.name)
    return Check(name, Status.PASS, detail="; ".join(f"{', '.join(names)} in {t}" for t, names in by_type.items()))


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer that a package ships, as its users do.

    Raises:
        SourceError: a file is none that may be read.

    """
    import transformers

    from converter.model_folder.plausible import check_shipped_settings

    check_shipped_settings(folder)
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def shipped_task(source: "TorchModel", folder: Path) -> "Task":
    """Return the source's task as the package in `folder` tells it: with the settings and the tokenizer that it ships.

    Raises:
        RunFailed: they cannot be read.

    """
    shipped = type(source.task)(source.config, source.task.prompt)
    try:
        shipped.read_folder(folder, load_tokenizer(folder), source.max_length)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunFailed(f"its tokenizer or its settings cannot be read: {reason}") from error
    return shipped


def check_tokenizer(folder: Path, source: "TorchModel", probes: "Sequence[Probe]") -> Check:
    """The shipped tokenizer must have the source's vocabulary, and give the ids of the source's on every probe."""
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return Check("tokenizer", Status.FAIL, detail=f"the shipped tokenizer does not load: {reason}")
    if other := _other_words(tokenizer.get_vocab(), source.tokenizer.get_vocab()):
        return Check("tokenizer", Status.FAIL, detail=other)
    if not probes:
        return Check("tokenizer", Status.NOT_RUN, detail="there are no texts to compare")
    for i, probe in enumerate(probes):
        found = source.task.encode(tokenizer, probe.example, source.max_length).inputs
        for name in source.input_names:
            wanted = probe.encoding.inputs[name]
            if name not in found or not np.array_equal(found[name], wanted):
                detail = (
                    f"the shipped tokenizer gives other {name} than the source's for {shorten(probe.example.text)!r}: "
                    f"{_ids(found.get(name))}, wanted {_ids(wanted)}"
                )
                return Check("tokenizer", Status.FAIL, float(i), float(len(probes)), detail)
    n = float(len(probes))
    detail = f"the shipped tokenizer gives the source's ids for all {len(probes)} texts"
    return Check("tokenizer", Status.PASS, n, n, detail)


def _other_words(found: "Mapping[str, int]", wanted: "Mapping[str, int]") -> str:
    """Say in what a vocabulary is another one; nothing where it is not. Most words stand in no text that is tried."""
    if found == wanted:
        return ""
    # The first by id: a tokenizer names its words in another order each time.
    word = min((w for w in wanted if found.get(w) != wanted[w]), key=lambda w: wanted[w], default=None)
    if word is None:
        more = min((w for w in found if w not in wanted), key=lambda w: found[w])
        return f"the shipped tokenizer knows {shorten(more)!r}, which the source's does not"
    known = f"has the id {found[word]}" if word in found else "is missing"
    return f"{shorten(word)!r} {known} in the shipped tokenizer; the source's has {wanted[word]}"


def _ids(value: Any) -> str:
    return "none" if value is None else shorten(str(list(map(int, value))), 100)


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
