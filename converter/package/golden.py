"""Golden vectors: a few varied texts, their ids, and what package and source answered when the package was sealed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import PackageDamaged
from converter.examples import Encoding, Example
from converter.graphs import MODEL, GraphSpec
from converter.package.machine import machine_class
from converter.package.manifest import GOLDEN
from converter.package.stored_sums import StoredSums, read_sums, sum_tensors
from converter.package.sweep import MOST_TOKENS, NOTHING, Sweep, read_sweep, record_sweep, replay_sweep, sweep_tensors
from converter.reference import own_outputs, run_probe
from converter.resources import made_in_threads
from converter.scoring.relative_error import REPLAY_FLOOR, relative_error
from converter.stage import SILENT
from converter.task import Judged, Task
from converter.validate.answers import run_safely, shorten
from converter.validate.stability import spread
from converter.validate.vocabulary import as_seen_by

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.reference import Reference
    from converter.target import Runner

N_TEXTS = 16
LATER_WINDOWS = 4
"""One golden text in so many is a later window of a long context, where there are any."""
MAX_VALUES = 2_000_000
"""Numbers of all outputs together (8 MB in float32): token vectors must not outweigh the model."""
ANSWER, WRITTEN = "answer", "written"
"""Among a text's ids: the tokens that the source wrote after it, and those that the package wrote on its own."""


@dataclass(frozen=True)
class Golden:
    """What `golden.safetensors` holds. Arrays by text, outputs as the task compares them."""

    examples: tuple[Example, ...]
    ids: tuple[dict[str, "NDArray[np.int64]"], ...]
    package: tuple[dict[str, "NDArray[np.float32]"], ...]
    source: tuple[dict[str, "NDArray[np.float32]"], ...]
    output_range: dict[str, float]
    """Of the source over all probes."""
    n_same: int = 0
    """Texts on which package and source agreed when they were recorded; it stands in the manifest, not in the file."""

    @property
    def written(self) -> "list[tuple[str, NDArray[np.int64]]]":
        """Return each text with the tokens that the package wrote on its own; empty where the model writes none."""
        pairs = zip(self.examples, self.ids, strict=True)
        return [(e.text, ids[WRITTEN]) for e, ids in pairs if WRITTEN in ids]

    words: tuple[str, ...] = ()
    """What the package answered, in words; none where an answer names another text."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the shipped tokenizer does by itself."""
    machine: str = ""
    """The class of machine that computed it, see `machine_class`: there an answer comes out equal to the last bit."""
    sweep: Sweep = NOTHING
    stored: StoredSums = field(default_factory=StoredSums)
    """What the weights of the files add up to."""


def record_golden(
    made: "TorchModel",
    source: "TorchModel",
    reference: "Reference",
    runner: "Runner",
    swept: Callable[[], int] = lambda: MOST_TOKENS,
) -> Golden:
    """Run the package of `made` on a varied choice of the probes; what the source answered is known.

    `swept` gives how many words of the vocabulary are asked at most, in texts made of token ids: the last thing asked.
    """
    chosen = choose(reference, source.task)
    few = _only(reference, chosen)
    limit = min(source.max_length, runner.max_length or source.max_length)
    shown, seen = as_seen_by(made, source, few, limit, SILENT)
    if len(seen.judged) > len(chosen):  # a shorter length makes more windows of a long text
        seen = _only(seen, choose(seen, source.task))
    probes, theirs = seen.probes, seen.judged
    each = made_in_threads(lambda p: run_probe(shown, p, runner.run), probes, alone=not runner.side_by_side)
    mine = list(each)
    names = [n for n in reference.output_range if all(n in j.outputs for j in mine)]
    task = source.task
    same = [task.same(a, b) for a, b in zip(task.decisions(theirs), task.decisions(mine), strict=True)]
    return Golden(
        examples=tuple(replace(p.example, label=None, where="") for p in probes),
        ids=tuple(
            {n: p.encoding.inputs[n] for n in source.input_names} | _texts(source, shown, j, runner)
            for p, j in zip(probes, theirs, strict=True)
        ),
        package=tuple({n: j.outputs[n] for n in names} for j in mine),
        source=tuple({n: j.outputs[n] for n in names} for j in theirs),
        output_range=dict(reference.output_range),
        n_same=sum(one == 1 for one in same),
        words=words_of(shown.task, mine),
        machine=machine_class(runner),
        sweep=_sweep(made, runner, swept),
    )


def words_of(task: Task, judged: Sequence[Judged]) -> tuple[str, ...]:
    """Return what is answered, in words; nothing where an answer is which of these texts is nearest."""
    if not task.has_labels:
        return ()
    return tuple(task.describe(d, j.example) for d, j in zip(task.decisions(judged), judged, strict=True))


def _sweep(made: "TorchModel", runner: "Runner", most: Callable[[], int]) -> Sweep:
    """Call the package on words of the whole vocabulary; models that write text have their recorded sequences."""
    if made.cache is not None or MODEL not in made.specs:
        return NOTHING
    tokenizer, spec = made.tokenizer, made.specs[MODEL]
    ends = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    first, last = (int(e if e is not None else tokenizer.unk_token_id or 0) for e in ends)
    padding = tokenizer.pad_token_id  # the tokenizer looks it up whenever it is asked
    ids = [i for i in range(spec_vocabulary(spec)) if i != padding]
    longest = min(made.max_length, runner.max_length or made.max_length)
    types = int(getattr(made.config, "type_vocab_size", 0) or 0)
    return record_sweep(spec, runner, ids, (first, last), longest, types, most())


def spec_vocabulary(spec: GraphSpec) -> int:
    """Return how many token ids a graph may be fed."""
    return next((t.draw[1] + 1 for t in spec.inputs if t.name == "input_ids"), 0)


def _texts(source: "TorchModel", shown: "TorchModel", theirs: Judged, runner: "Runner") -> dict[str, Any]:
    """Return what source and package wrote after a text; nothing where the model writes none."""
    if source.cache is None:
        return {}
    from converter.validate.generation import free_running

    written = free_running(shown.task, shown.specs, runner.run, theirs)
    return {ANSWER: theirs.encoding.answer, WRITTEN: np.asarray(written, dtype=np.int64)}


def _only(reference: "Reference", chosen: Sequence[int]) -> "Reference":
    return replace(
        reference,
        judged=tuple(reference.judged[i] for i in chosen),
        decisions=tuple(reference.decisions[i] for i in chosen),
        scored=(),
        metric={},
        chance=None,
    )


def choose(reference: "Reference", task: Task) -> list[int]:
    """Return at most `N_TEXTS` probes by index: short to long, of two answers at least where the source gives two."""
    order = sorted(range(len(reference.judged)), key=lambda i: reference.judged[i].encoding.length)
    # Samples for devices read the first window of a text: most of what they are tested by must be such.
    later = [i for i in order if reference.judged[i].example.window]
    n_later = min(len(later), N_TEXTS // LATER_WINDOWS)
    first = spread([i for i in order if not reference.judged[i].example.window], N_TEXTS - n_later)
    chosen = sorted((*first, *spread(later, n_later)), key=order.index) if later else first
    if chosen and order[-1] not in chosen:  # the last positions are read by the longest text alone
        chosen = [*chosen[:-1], order[-1]]
    while len(chosen) > 2 and sum(_n_values(reference.judged[i]) for i in chosen) > MAX_VALUES:
        chosen.remove(max(chosen, key=lambda i: _n_values(reference.judged[i])))
    if len(chosen) > 1 and task.distinct([reference.decisions[i] for i in chosen]) == 1:
        first = reference.decisions[chosen[0]]
        other = next((i for i in order if task.distinct([first, reference.decisions[i]]) > 1), None)
        chosen = chosen if other is None else [*chosen[:-1], other]
    return _every_label(chosen, order, reference) if task.has_labels else chosen


def _every_label(chosen: list[int], order: Sequence[int], reference: "Reference") -> list[int]:
    """Let texts of labels that no chosen text has take the place of those whose label others have too."""
    made = list(chosen)
    for i in order:
        labels = [reference.decisions[k] for k in made]
        if not isinstance(reference.decisions[i], int) or reference.decisions[i] in labels:
            continue
        twice = next((k for k, label in enumerate(labels[:-1]) if labels.count(label) > 1), None)
        if twice is not None:
            made[twice] = i
    return made


def _n_values(judged: Judged) -> int:
    return sum(v.size for v in judged.outputs.values())


def write_golden(golden: Golden, folder: Path) -> None:
    """Write `golden.safetensors`: the same vectors give the same bytes."""
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = {}
    for i in range(len(golden.examples)):
        for kind in ("ids", "package", "source"):
            tensors |= {f"{i:02d}.{kind}.{n}": np.ascontiguousarray(v) for n, v in getattr(golden, kind)[i].items()}
    table = {
        "examples": [
            {"text": e.text, "pair": e.pair, "words": None if e.words is None else list(e.words)}
            | ({"window": e.window} if e.window else {})
            for e in golden.examples
        ],
        "output_range": golden.output_range,
        "words": list(golden.words),
        "defaults": dict(golden.defaults),
        "machine": golden.machine,
        **({"stored": list(golden.stored.names)} if golden.stored.names else {}),
    }
    tensors |= sweep_tensors(golden.sweep) | sum_tensors(golden.stored)
    # One key: a table of several has no order of its own in this format.
    save_file(tensors, folder / GOLDEN, metadata={"golden": json.dumps(table, sort_keys=True)})


def read_golden(folder: Path) -> Golden:
    """Read `golden.safetensors`.

    Raises:
        PackageDamaged: it cannot be read, or lacks something.

    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / GOLDEN, framework="numpy") as opened:
            table = json.loads(opened.metadata()["golden"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        examples = tuple(
            Example(
                e["text"],
                e["pair"],
                None if e["words"] is None else tuple(e["words"]),
                window=int(e.get("window", 0)),
            )
            for e in table["examples"]
        )
        found = Golden(
            examples=examples,
            ids=_of("ids", tensors, len(examples)),
            package=_of("package", tensors, len(examples)),
            source=_of("source", tensors, len(examples)),
            output_range={str(k): float(v) for k, v in table["output_range"].items()},
            words=tuple(str(w) for w in table.get("words", ())),
            defaults=dict(table.get("defaults", {})),
            machine=str(table.get("machine", "")),
            sweep=read_sweep(tensors),
            stored=read_sums(tensors, table.get("stored", ())),
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackageDamaged(f"the golden vectors cannot be read ({error!r})", where=str(folder / GOLDEN)) from None
    if not examples or not all(found.ids) or not all(found.package) or not all(found.source):
        raise PackageDamaged("the golden vectors are not complete", where=str(folder / GOLDEN))
    return found


def _of(kind: str, tensors: "Mapping[str, NDArray[Any]]", n: int) -> "tuple[dict[str, NDArray[Any]], ...]":
    return tuple(
        {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
        for head in (f"{i:02d}.{kind}." for i in range(n))
    )


@dataclass(frozen=True)
class Replay:
    """How a package answered its golden texts now."""

    n_texts: int
    change: float
    """Worst change from the recorded outputs, over the output range."""
    n_decisions: int
    """Texts on which package and source agreed when it was sealed, and still do."""


def replay(
    golden: Golden,
    task: Task,
    encodings: Sequence[Encoding],
    runner: "Runner",
    specs: Mapping[str, GraphSpec],
    tolerance: float,
) -> Replay:
    """Run the golden texts again.

    Raises:
        PackageDamaged: an output is further than `tolerance` from the recorded one, or an answer is another.
        RunFailed: the runtime raised.

    """
    judged, worst = [], 0.0
    for i, encoding in enumerate(encodings):
        if WRITTEN in golden.ids[i]:
            _check_written(golden, i, task, encoding, runner, specs)
        feed = task.feed(specs, [encoding])
        made = run_safely(task, specs, runner.run, feed, golden.examples[i], encoding.length)
        outputs = own_outputs(made, 0, encoding, task, specs)
        worst = max(worst, _change(golden, i, outputs, tolerance))
        judged.append(Judged(golden.examples[i], encoding, outputs))
    agreed = _check_decisions(golden, task, judged)
    _check_words(golden, task, judged)
    worst = max(worst, replay_sweep(golden.sweep, runner, tolerance))
    return Replay(len(judged), worst, agreed)


def _check_words(golden: Golden, task: Task, judged: Sequence[Judged]) -> None:
    """What the recorded outputs say in words, by the labels that ship, must be what they said."""
    then = words_of(task, [replace(j, outputs=golden.package[i]) for i, j in enumerate(judged)])
    for i, (wanted, found) in enumerate(zip(golden.words, then, strict=False)):
        if wanted != found:
            raise PackageDamaged(
                f"the answer to {shorten(golden.examples[i].text)!r} is called {found!r}, where it was {wanted!r}",
                hint="the labels of config.json are not those that the package was sealed with",
            )


def _check_written(
    golden: Golden, i: int, task: Task, encoding: Encoding, runner: "Runner", specs: Mapping[str, GraphSpec]
) -> None:
    """Let the package write after a text once more: token by token what it wrote when it was sealed."""
    from converter.validate.generation import free_running

    writer: Any = task
    found = free_running(writer, specs, runner.run, Judged(golden.examples[i], encoding, {}))
    wanted = tuple(golden.ids[i][WRITTEN].tolist())
    if found != wanted:
        raise PackageDamaged(
            f"after {shorten(golden.examples[i].text)!r} it writes {writer.written(found)!r}, where it wrote "
            f"{writer.written(wanted)!r}",
            hint="results can differ by runtime version and CPU; the manifest names the recorded runtime",
        )


def _check_decisions(golden: Golden, task: Task, judged: Sequence[Judged]) -> int:
    """Every answer that was the source's must still be; returns how many those are."""
    wanted = task.decisions([replace(j, outputs=golden.source[i]) for i, j in enumerate(judged)])
    then = task.decisions([replace(j, outputs=golden.package[i]) for i, j in enumerate(judged)])
    now = task.decisions(judged)
    agreed = [i for i in range(len(judged)) if task.same(wanted[i], then[i]) == 1]
    for i in agreed:
        if task.same(wanted[i], now[i]) < 1:
            example = golden.examples[i]
            raise PackageDamaged(
                f"it answers {shorten(example.text)!r} with {task.describe(now[i], example)!r}, where it and its "
                f"source answered {task.describe(wanted[i], example)!r}",
                hint="int8 results can differ by runtime version and CPU; the manifest names the recorded runtime",
            )
    return len(agreed)


def _change(golden: Golden, i: int, outputs: "Mapping[str, NDArray[np.float32]]", tolerance: float) -> float:
    worst = 0.0
    for name, wanted in golden.package[i].items():
        if name not in outputs:
            raise PackageDamaged(f"the package has no output {name}, which its golden vectors have")
        change = relative_error(outputs[name], wanted, golden.output_range.get(name, 0.0), REPLAY_FLOOR)
        # Written so that NaN fails.
        if not change <= tolerance:
            raise PackageDamaged(
                f"{name} differs by {change:.3g} of its range from the golden vector of "
                f"{shorten(golden.examples[i].text)!r}; at most {tolerance:g} wanted",
                hint="the golden vectors belong to another model, or the runtime computes different results",
            )
        worst = max(worst, change)
    return worst
