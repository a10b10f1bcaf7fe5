"""Does the gate see what is wrong? Faults planted into good packages, their harm measured, and who noticed.

    python benchmarks/mutations.py [--work DIR] [--only PACKAGE] [--count N] [--kinds N] [--seconds S] [--to NAME]

Good packages of small models are made (`--work` keeps them), each gets a fault of one kind after the other, from a
seed. Whether a fault does harm is measured without the gate: the faulty package answers `HELD_OUT` texts that nobody
has seen, beside the good one. Then the gate judges the faulty folder, and `verify` does, with the hashes made anew.
Good packages are judged again on other texts. Results are written after every fault, to
`benchmarks/results/mutations.json`: a second call goes on where the first one stopped.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from _measure import ROOT, SHARED, commit, known, machine, save
from _mutants import FOLDER_KINDS, NoPlace, Plant

sys.path.insert(0, str(ROOT))

from _held_out import HELD_OUT, HELD_OUT_WRITTEN, SAMPLE, WRITERS, calibration_file, held_out

from converter.artifact import Bundle, TorchModel
from converter.examples import Example
from converter.stage import SILENT

SLICE = 100
"""Texts that a slice has at least."""
HARM, SLICE_HARM = 0.01, 0.05
"""Share of decisions, of all texts and of a slice, from which a fault does harm."""
CERTAIN = 0.05
"""Share of all held-out texts: where a package wrote so many otherwise, no more are asked."""
RARE = 0.25
"""Share of texts, by their rarest word, that are the slice of rare words."""
PACKAGES: tuple[tuple[str, str, str, str], ...] = (
    ("bert", "token-classification", "cpu-int8", "static"),
    ("bert", "token-classification", "cpu-int8", "dynamic"),
    ("bert", "text-classification", "cpu-int8", "none"),
    ("bert", "text-classification", "ort-gpu", "fp16"),
    ("bert", "question-answering", "ort-gpu", "fp16"),
    ("bert", "feature-extraction", "cpu-int8", "static"),
    ("bert", "sentences", "cpu-int8", "dynamic"),
    ("bert", "token-classification", "tflite", "dynamic"),
    ("bert", "text-classification", "tflite", "fp16"),
    ("bert", "text-classification", "tflite", "static"),
    ("bert", "text-classification", "tflite", "int4"),
    ("bert", "sentences", "tflite", "dynamic"),
    ("roberta", "text-classification", "cpu-int8", "static"),
    ("distilbert", "fill-mask", "ort-gpu", "fp16"),
    ("gpt2", "text-generation", "cpu-int8", "none"),
    ("gpt2", "text-generation", "cpu-int8", "int8"),
    ("marian", "translation", "cpu-int8", "none"),
    ("marian", "translation", "cpu-int8", "int8"),
    ("sst2-minilm", "", "cpu-int8", "static"),
    ("sst2-minilm", "", "tflite", "dynamic"),
    ("sample:translator", "translation", "cpu-int8", "int8"),
    ("sample:storyteller", "text-generation", "cpu-int8", "int8"),
    ("sample:translator", "translation", "cpu-int8", "int4"),
    ("sample:storyteller", "text-generation", "cpu-int8", "int4"),
    ("sample:sentiment", "", "tflite", "static"),
    ("sample:sentiment", "", "tflite", "int4"),
    ("gpt2", "text-generation", "tflite", "none"),
    ("marian", "translation", "tflite", "dynamic"),
    ("sample:storyteller", "text-generation", "tflite", "dynamic"),
)
"""Model, task, target and precision; models are tiny and drawn, but for the samples, which are trained, and the one
that `shared/models` holds."""
RUNS = 4
"""Times that a good package is judged again, on other texts."""


@dataclass
class Good:
    """A good package, the model it came from, and what it answers to texts that nobody has seen."""

    name: str
    folder: Path
    source: TorchModel
    held_out: tuple[Example, ...]
    text: tuple[Example, ...]
    """What the gate is given."""
    decisions: Any = None
    references: dict[int, Any] = field(default_factory=dict)
    steps: tuple[Any, ...] = ()
    """The float file that the package was made of, and a stand-in for the package itself."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What of its source's answers to the held-out texts it keeps, where that was asked."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=None, help="where good packages are kept")
    parser.add_argument("--only", default="", help="packages whose name contains this")
    parser.add_argument("--count", type=int, default=1, help="faults of each kind in each package")
    parser.add_argument("--kinds", type=int, default=1000, help="kinds of faults in each package, drawn from a seed")
    parser.add_argument("--to", default="mutations", help="name of the file of results")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + given.seconds
    table: dict[str, Any] = {"faults": {}, "good": {}} | known(given.to)
    table |= {"machine": machine(), "commit": commit()}
    table["held_out"] = {"texts": HELD_OUT, "texts of models that write": HELD_OUT_WRITTEN, "slice": SLICE}
    for name in PACKAGES:
        if given.only not in _key(name):
            continue
        for key, row in _rows(name, work, given.count, given.kinds, table):
            table["good" if row.get("good") else "faults"][key] = row
            table["summary"] = summary(table)
            save(given.to, table)
            if time.monotonic() > ends:
                return
    print(json.dumps(table.get("summary"), indent=2))


def summary(table: dict[str, Any]) -> dict[str, Any]:
    """Return the counts, and the misses by name."""
    faults = table["faults"]
    harmful = {k: v for k, v in faults.items() if v["harmful"]}
    missed = {who: sorted(k for k, v in harmful.items() if not v[who]) for who in ("gate", "verify")}
    failed = {k: v for k, v in table["good"].items() if v["status"] == "FAIL"}
    # Not good at all: over all held-out texts it keeps fewer answers than its target asks for.
    below = sorted(k for k, v in failed.items() if v.get("held_out_agreement", 1) < v.get("agreement_wanted", 0))
    rejected = sorted(failed.keys() - set(below))
    return {
        "faults": len(faults),
        "kinds": len({v["kind"] for v in faults.values()}),
        "harmful": len(harmful),
        "gate_missed": missed["gate"],
        "verify_missed": missed["verify"],
        "harmless_caught_by_gate": sum(v["gate"] and not v["harmful"] for v in faults.values()),
        "good_runs": len(table["good"]),
        "good_rejected": rejected,
        "rejected_below_the_limit": below,
    }


def _rows(
    name: tuple[str, str, str, str], work: Path, count: int, n_kinds: int, table: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    kinds = _kinds(name[2], writes=name[1] in WRITERS)
    drawn = np.random.default_rng(crc32(_key(name).encode())).permutation(sorted(kinds))[:n_kinds]
    kinds = {kind: kinds[kind] for kind in kinds if kind in set(drawn)}
    planned = [(f"{_key(name)}/{kind}/{i}", kind, i) for kind in kinds for i in range(count)]
    runs = [f"{_key(name)}/run {i}" for i in range(RUNS)]
    skipped = table.setdefault("no_place", [])
    waiting = [p for p in planned if p[0] not in table["faults"] and p[0] not in skipped]
    again = [r for r in runs if r not in table["good"]]
    if not waiting and not again:
        return
    good = _good(name, work)
    if good is None:
        return
    for i, run in enumerate(again):
        yield run, _judged_again(good, runs.index(run)) | {"good": True, "run": i}
    for key, kind, i in waiting:
        row = _fault(good, kind, kinds[kind], crc32(key.encode()) + i)
        if row is None:
            skipped.append(key)
            continue
        print(key, {k: row[k] for k in ("harmful", "gate", "verify")}, flush=True)
        yield key, row


def _key(name: tuple[str, str, str, str]) -> str:
    return "-".join(name).replace(":", "-")


def _kinds(target: str, *, writes: bool = False) -> dict[str, Plant]:
    if target == "tflite":
        from _mutants_text import SETTING_KINDS
        from _mutants_tflite import TFLITE_KINDS

        return FOLDER_KINDS | TFLITE_KINDS | (SETTING_KINDS if writes else {})
    from _mutants_onnx import GRAPH_CHANGES, ONNX_KINDS

    if writes:
        from _mutants_text import TEXT_KINDS, any_graph

        usual = {k: any_graph(v) for k, v in GRAPH_CHANGES.items() if not k.startswith("output")}
        return TEXT_KINDS | FOLDER_KINDS | usual
    return FOLDER_KINDS | ONNX_KINDS


def _good(name: tuple[str, str, str, str], work: Path) -> Good | None:
    """Make a good package, or find it; None where its gate rejects it: there is nothing to plant a fault in."""
    from converter.context import read_text
    from converter.model_folder.given import load_model
    from converter.pipeline import run_recipe
    from converter.recipe import bind_recipe

    model = _model(name, work)
    table: dict[str, Any] = {"model": str(model), "targets": [name[2]], "quantize": {name[2]: name[3]}}
    if name[2:] in {("tflite", "static"), ("tflite", "int4")} or name[0].startswith(SAMPLE):
        table["calibration"] = calibration_file(name[0], name[1], work)  # static takes no built-in text
    recipe = bind_recipe(table)
    out = work / _key(name)
    if not (out / "recipe.toml").is_file():
        run_recipe(recipe, out, force=True)
    if not (out / name[2] / "manifest.json").is_file():
        print(f"{_key(name)}: rejected as it is")
        return None
    source = load_model(recipe, SILENT)
    text = read_text(recipe, source, SILENT).probes
    good = Good(_key(name), out / name[2], source, held_out(name[0], name[1]), text)
    good.steps = _float_step(name, good, work)
    good.decisions = list(_decided(good, good.folder))
    return good


def _decided(good: Good, folder: Path) -> Iterator[Any]:
    """Yield what a folder answers to the held-out text: a text itself, or what the task decides on."""
    if good.source.cache is None:
        yield from good.source.task.decisions(_answers(good, folder))
        return
    from _mutants_text import written

    yield from written(folder, [e.text for e in good.held_out])


def _float_step(name: tuple[str, str, str, str], good: Good, work: Path) -> tuple[Any, ...]:
    """Make the float file once more, as the run that made the package had it; nothing where that is the package."""
    from converter.registry import target_class
    from converter.stage import Context, run_stage

    if name[3] == "none":
        return ()
    room = work / f"float-{_key(name)}"
    room.mkdir(exist_ok=True)
    (stage,) = target_class(name[2])().stages("none", {}, good.source)
    made, _ = run_stage(stage, good.source, Context(work=room, calibration=good.text[:40]))
    return (("float", made), ("quantized", replace(made, precision=name[3])))


def _model(name: tuple[str, str, str, str], work: Path) -> Path | str:
    if name[0].startswith(SAMPLE):
        return name[0]
    if name[0] == "sst2-minilm":
        return SHARED / "models" / "sst2-minilm"
    from tests.tiny import make_tiny, make_tiny_sentence_transformer

    folder = work / f"model-{name[0]}-{name[1]}"
    if not folder.is_dir():
        if name[1] in WRITERS:
            _make_writer(folder, name[0])
        elif name[1] == "sentences":
            make_tiny_sentence_transformer(folder, name[0])
        else:
            make_tiny(folder, name[0], name[1])
    return folder


def _make_writer(folder: Path, family: str) -> None:
    """Make a model that writes text: a translator, or a causal one that knows a chat template."""
    from _mutants_text import TEMPLATE
    from transformers import AutoTokenizer

    from tests.tiny_text import save_causal, save_marian

    if family == "marian":
        save_marian(folder)
        return
    save_causal(folder, family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def _answers(good: Good, folder: Path) -> tuple[Any, ...]:
    """Ask a folder about the held-out text, as its user would: shipped tokenizer, its own defaults, one at a time.

    Every eighth text comes in a batch of four that the shipped tokenizer pads.
    """
    from converter.package.answer import open_runner, read_specs
    from converter.package.verify import task_of
    from converter.reference import own_outputs
    from converter.task import Judged
    from converter.validate.interface import load_tokenizer

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    specs, task = read_specs(folder, manifest), task_of(folder, manifest)
    tokenizer, runner = load_tokenizer(folder), open_runner(folder, manifest, read_specs(folder, manifest), 1)
    limit = min(int(tokenizer.model_max_length), int(manifest["max_length"]))
    encodings = [task.encode(tokenizer, e, limit) for e in good.held_out]
    made: list[Any] = []
    for i, encoding in enumerate(encodings):
        feed = task.feed(specs, [encoding])
        row = 0
        if i % 8 == 7 and runner.max_batch != 1:
            others = [encodings[k] for k in range(i - 3, i + 1)]
            feed, row = _padded(tokenizer, specs, others), 3
        outputs = task.answer(specs, runner.run, feed)
        made.append(Judged(good.held_out[i], encoding, own_outputs(outputs, row, encoding, task, specs)))
    return tuple(made)


def _padded(tokenizer: Any, specs: Any, encodings: Sequence[Any]) -> dict[str, Any]:
    names = next(iter(specs.values())).input_names
    rows = {n: [e.inputs[n].tolist() for e in encodings] for n in names}
    found = tokenizer.pad(rows, padding=True, return_tensors="np")
    return {n: np.asarray(found[n], dtype=np.int64) for n in names}


def _fault(good: Good, kind: str, plant: Plant, seed: int) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "package"
        shutil.copytree(good.folder, folder)
        try:
            said = plant(folder, np.random.default_rng(seed))
        except NoPlace:
            return None
        harm = _harm(good, folder)
        row = {"kind": kind, "what": said, "package": good.name} | harm
        row["verify"], row["verify_says"] = _verified(folder)
        status, why = _gated(good, folder, good.text)
        return row | {"gate": status == "FAIL", "gate_status": status, "gate_says": why}


def _harm(good: Good, folder: Path) -> dict[str, Any]:
    """Compare the faulty package's answers in words with the good one's: over all held-out texts, and over slices."""
    named = _names(folder) != _names(good.folder)
    try:
        same = _alike(good, folder)
    except Exception as error:  # noqa: BLE001 - a package that does not even answer
        return {"harmful": True, "changed": 1.0, "worst_slice": 1.0, "note": repr(error)[:200]}
    changed = float(1 - same.mean())
    asked = [(name, rows[rows < len(same)]) for name, rows in _slices(good)]
    slices = {name: float(1 - same[rows].mean()) for name, rows in asked if len(rows) >= SLICE}
    worst = max(slices.values(), default=0.0)
    harmful = changed >= HARM or worst >= SLICE_HARM or named
    told = {"harmful": bool(harmful), "changed": changed, "worst_slice": worst, "other_names": named}
    return told if len(same) == len(good.held_out) else told | {"asked": len(same)}


def _alike(good: Good, folder: Path) -> np.ndarray:
    """Return, text by text, how alike the folder answers; of a model that writes, until harm is certain."""
    same: list[float] = []
    for wanted, found in zip(good.decisions, _decided(good, folder), strict=False):
        same.append(_same(good.source.task, wanted, found))
        if good.source.cache is not None and len(same) - sum(same) >= CERTAIN * len(good.decisions):
            break
    return np.array(same)


def _same(task: Any, a: Any, b: Any) -> float:
    if isinstance(a, str):
        return float(a == b)
    try:
        return float(task.same(a, b))
    except ValueError:
        return 0.0


def _names(folder: Path) -> Any:
    """Return the names of the classes that users see, in every file that has them, and what other clients are told."""
    from _mutants_text import genai_of
    from _mutants_tflite import _archive

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    listed, media = folder / "labels.txt", folder / "model-mediapipe.tflite"
    inside = _archive(media).get("labels.txt") if media.is_file() else None
    return (
        config.get("id2label"),
        listed.read_text(encoding="utf-8") if listed.is_file() else "",
        inside,
        genai_of(folder),
    )


def _slices(good: Good) -> Iterator[tuple[str, np.ndarray]]:
    lengths = np.array([len(e.text) + len(e.pair or "") for e in good.held_out])
    for low, high in ((0, 0.25), (0.25, 0.75), (0.75, 0.95), (0.9, 1.01)):
        a, b = np.quantile(lengths, [low, min(high, 1)])
        yield f"length {a:.0f}", np.flatnonzero((lengths >= a) & (lengths <= b))
    if all(isinstance(d, (int, np.integer)) for d in good.decisions):
        for label in sorted(set(good.decisions)):
            yield f"label {label}", np.flatnonzero(np.array(good.decisions) == label)
    counts: dict[str, int] = {}
    for example in good.held_out:
        for word in example.text.split():
            counts[word] = counts.get(word, 0) + 1
    rarest = np.array([min((counts[w] for w in e.text.split()), default=0) for e in good.held_out])
    order = np.argsort(rarest, kind="stable")
    yield "rare words", order[: int(len(order) * RARE)]


def _gated(good: Good, folder: Path, text: Sequence[Example]) -> tuple[str, str]:
    from converter.binding import bind
    from converter.reference import capture_reference
    from converter.registry import target_class
    from converter.validate import package_check
    from converter.validate.checks import Check, Status
    from converter.validate.owner import NAME, OwnerVerdict
    from converter.validate.proof import ProofContext

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    target = bind(target_class(manifest["target"]), manifest["target_options"], "manifest")
    files = {graph: entry["file"] for graph, entry in manifest["graphs"].items()}
    key, cached = hash(tuple(text)), good.references
    if key not in cached:
        cached[key] = capture_reference(good.source, text, SILENT)
    with tempfile.TemporaryDirectory() as work:
        proof = ProofContext(Path(work), cached[key], OwnerVerdict(Check(NAME, Status.PASS)))
        bundle = Bundle(folder, files, good.source, {"model-mediapipe.tflite": "not made"})
        limits = target.limits(manifest["precision"].partition(":")[0])
        # How fast it is decides nothing, and takes half the time.
        package_check.measure_speed = _no_speed
        package_check.time_lengths = lambda *_: {}
        try:
            made = package_check.evaluate_package(
                target, bundle, good.source, limits, proof, require_device=False, steps=good.steps
            )
        except Exception as error:  # noqa: BLE001 - a run that ends in an error ships nothing
            return "FAIL", repr(error)[:200]
    failed = [c for c in made.checks if c.status is Status.FAIL]
    return str(made.status), "; ".join(f"{c.name}: {c.detail}"[:160] for c in failed[:4])


def _no_speed(*_: Any) -> Any:
    from converter.validate.speed import Speed

    return Speed({}, {})


def _verified(folder: Path) -> tuple[bool, str]:
    """Make the hashes anew, as if the fault had been there from the start, and let `verify` replay the answers."""
    from converter.errors import ExportError
    from converter.package.manifest import seal
    from converter.package.verify import verify_package

    path = folder / "manifest.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    rest = {k: v for k, v in table.items() if k not in {"format", "files", "manifest_sha256"}}
    path.unlink()
    seal(Bundle(folder, {}, None), rest)  # type: ignore[arg-type]
    try:
        verify_package(folder)
    except ExportError as error:
        return True, str(error)[:200]
    return False, ""


def _judged_again(good: Good, number: int) -> dict[str, Any]:
    """Judge the good package on a sample of other texts."""
    random = np.random.default_rng(number)
    texts = [e for i, e in enumerate(good.held_out) if i % 4 and i % 10 != 1]
    chosen = tuple(texts[i] for i in random.permutation(len(texts))[:100])
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "package"
        shutil.copytree(good.folder, folder)
        status, why = _gated(good, folder, chosen)
    print(good.name, f"run {number}", status, why, flush=True)
    row = {"status": status, "says": why}
    return row | (_kept(good) if status == "FAIL" else {})


def _kept(good: Good) -> dict[str, Any]:
    """Return the share of the held-out texts that the good package answers as its source does, and what is wanted.

    Of a model that writes, the share of whole texts that come out the same.
    """
    from converter.reference import capture_reference, torch_run
    from converter.registry import target_class

    manifest = json.loads((good.folder / "manifest.json").read_text(encoding="utf-8"))
    limits = target_class(manifest["target"])().limits(manifest["precision"].partition(":")[0])
    if not good.kept:
        if good.source.cache is None:
            answers: Any = capture_reference(good.source, good.held_out, SILENT).decisions
        else:
            from _mutants_text import written

            answers = written(good.folder, [e.text for e in good.held_out], torch_run(good.source))
        same = [_same(good.source.task, a, b) for a, b in zip(answers, good.decisions, strict=True)]
        wanted = limits.agreement if good.source.cache is None else limits.sequences
        good.kept = {"held_out_agreement": round(float(np.mean(same)), 4), "agreement_wanted": wanted}
        good.kept |= {"held_out_texts": len(same)}
    return good.kept


if __name__ == "__main__":
    main()
