"""Our own reading of the source, held to the library of its owner: before anything is made."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.probes import is_edge
from converter.errors import SourceError
from converter.examples import Example, pad_batch
from converter.graphs import MODEL, SEQUENCE, VOCABULARY, Run, names_along
from converter.owner.contract import NotAvailable, Outputs, OwnerLibrary, Question, first_line
from converter.owner.library import open_library
from converter.reference import Probe, Reference, torch_run
from converter.resources import LARGE_BYTES, release_memory
from converter.scoring.relative_error import relative_error
from converter.task import Judged
from converter.validate.answers import shorten
from converter.validate.checks import Check, Status
from converter.validate.difference import TOLERANCE, Difference
from converter.validate.owner_explain import explain

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Progress, Ticker
    from converter.validate.owner_writing import OwnerDrafts

NAME = "owner's library"
FLOOR = 1e-2
"""Part of the largest value that counts as range at least: float32 rounds by size, and outputs may hardly vary."""
ALONE = 24
"""Ordinary texts that are asked about one at a time, beside all edge cases; the others come in batches."""
MIXED, MIXED_TOKENS = 8, 64
"""Texts of one batch of unequal lengths, so that padding shows, and the longest of them."""
BATCH, BATCH_TOKENS = 32, 2048
"""Texts of any other batch, and its padded tokens."""
EMBEDDING = "sentence_embedding"
UNREAD_INPUTS = ("bbox", "boxes", "image", "images", "pixel_values", "entity_ids", "xpath_tags_seq", "xpath_subs_seq")
"""What models read beside text, by the names in their `forward`."""


@dataclass(frozen=True)
class OwnerVerdict:
    """The check, and what it took."""

    check: Check
    library: str = ""
    call: str = ""
    n_texts: int = 0
    n_batched: int = 0
    padding_side: str = ""
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {
            "status": self.check.status,
            "detail": self.check.detail,
            "library": self.library,
            "call": self.call,
            "texts": self.n_texts,
            "batched": self.n_batched,
            "padding_side": self.padding_side,
            "worst_error": self.check.value,
            "seconds": round(self.seconds, 3),
        }


def check_owner(
    source: "TorchModel",
    reference: Reference,
    progress: "Progress",
    prompt: str | None = None,
    max_length: int | None = None,
    drafts: "OwnerDrafts | None" = None,
) -> OwnerVerdict:
    """Ask the library of the source's owner about the same raw texts, and compare.

    `drafts`: what it wrote already, where the source writes text.

    `prompt` names one of the folder's own prompts, `max_length` is a limit in tokens that the user chose; None leaves
    the choice to the library.

    Raises:
        SourceError: an answer differs by more than rounding; the message says what explains it.

    """
    started = time.perf_counter()
    if source.cache is not None and not source.offloaded:
        return _check_writer(source, reference, progress, drafts)
    _refuse_unread_inputs(source)
    if source.offloaded:
        said = "the weights of the source are on disk, and its own library would read them all into memory"
        return OwnerVerdict(Check(NAME, Status.NOT_RUN, None, TOLERANCE, said))
    try:
        library = open_library(source.folder, source.task, source.max_length, prompt)
        if max_length is not None:
            library.cut_at(max_length)
    except NotAvailable as reason:
        return OwnerVerdict(Check(NAME, Status.NOT_RUN, None, TOLERANCE, str(reason)))
    try:
        found = _compared(source, reference, library, progress)
    finally:
        name, call, side = library.name, library.call, library.tokenizer.padding_side
        del library  # as large as the source itself
        release_memory(cycles=source.size_bytes > LARGE_BYTES)
    n_texts, n_batched, worst = found
    if not n_texts:
        check = Check(NAME, Status.NOT_RUN, None, TOLERANCE, f"there is no text that {call} takes")
    else:
        batch = f" ({n_batched} of them in batches padded on the {side})" if n_batched else ""
        detail = (
            f"{name} ({call}) gives the same answers to {n_texts} raw texts{batch}: the largest difference is "
            f"{worst:.2g} of the output range; at most {TOLERANCE:g} wanted"
        )
        check = Check(NAME, Status.PASS, worst, TOLERANCE, detail)
    return OwnerVerdict(check, name, call, n_texts, n_batched, side, time.perf_counter() - started)


def _check_writer(
    source: "TorchModel", reference: Reference, progress: "Progress", drafts: "OwnerDrafts | None"
) -> OwnerVerdict:
    from converter.validate.owner_writing import compare_writing

    started = time.perf_counter()
    try:
        found = compare_writing(source, reference, progress, drafts)
    except NotAvailable as reason:
        return OwnerVerdict(Check(NAME, Status.NOT_RUN, detail=str(reason)))
    n = len(reference.judged)
    ties = f" ({found.ties} of them part at two tokens of equal score)" if found.ties else ""
    detail = f"{found.library} ({found.call}) reads and writes the same tokens for {n} raw texts{ties}"
    check = Check(NAME, Status.PASS, float(n), float(n), detail)
    return OwnerVerdict(check, found.library, found.call, n, seconds=time.perf_counter() - started)


@dataclass
class _Comparison:
    """One source beside its library: the largest difference so far."""

    source: "TorchModel"
    library: OwnerLibrary
    judged: dict[int, Judged]
    """The source's answers, alone, by their places among the probes."""
    scales: dict[str, float]
    worst: float = 0.0
    n_batched: int = 0

    def alone(self, places: Sequence[int], ticker: "Ticker") -> None:
        answers = _asked(self.library, self.library.alone(self._questions(places)), self.source.folder)
        for place, theirs in zip(places, answers, strict=True):
            self._judge(self._pair(place, self.judged[place].outputs, theirs))
            ticker.advance()

    def together(self, places: Sequence[int], ticker: "Ticker", *, padded: bool) -> None:
        """Compare the answers to a batch; `padded`: with the same batch of ours, else with our answers to each alone.

        Where the latter differ, ours are batched too: what padding does to the library's own answers may be right.
        """
        answers = list(_asked(self.library, self.library.together(self._questions(places)), self.source.folder))
        pairs = [self._pair(p, self.judged[p].outputs, a) for p, a in zip(places, answers, strict=True)]
        if padded or any(self._error(pair) > TOLERANCE for pair in pairs):
            probes = [Probe(self.judged[p].example, self.judged[p].encoding) for p in places]
            ours = padded_answers(self.source, probes, torch_run(self.source), self.library.tokenizer.padding_side)
            pairs = [self._pair(p, mine, a) for p, mine, a in zip(places, ours, answers, strict=True)]
        for pair in pairs:
            self._judge(replace(pair, batched=True))
            ticker.advance()
        self.n_batched += len(places)

    def _questions(self, places: Sequence[int]) -> list[Question]:
        wide = bool(names_along(self.source.task.outputs, VOCABULARY))
        asked = [self.judged[p] for p in places]
        return [Question(j.example, tuple(at for at, _ in j.encoding.masked) if wide else ()) for j in asked]

    def _pair(self, place: int, ours: Outputs, theirs: Outputs) -> Difference:
        """Put both answers beside each other, each as its task compares it."""
        judged, task = self.judged[place], self.source.task
        n_tokens = {theirs[n].shape[0] for n in names_along(task.outputs, SEQUENCE) if n in theirs}
        # Of another number of tokens the positions that a task compares may not even exist: the shapes say it all.
        seen = dict(task.compared(theirs, judged.encoding)) if n_tokens <= {judged.encoding.length} else dict(theirs)
        return Difference(Probe(judged.example, judged.encoding), "", 0.0, ours, seen)

    def _error(self, pair: Difference) -> float:
        shared = [n for n in pair.ours if n in pair.theirs]
        return max((relative_error(pair.ours[n], pair.theirs[n], self.scales[n]) for n in shared), default=0.0)

    def _judge(self, pair: Difference) -> None:
        """Take note of the error of one text.

        Raises:
            SourceError: it is beyond rounding, or the two do not answer with the same.

        """
        shared = [n for n in pair.ours if n in pair.theirs]
        if not shared or (EMBEDDING in pair.ours) != (EMBEDDING in pair.theirs):
            raise SourceError(
                f"{self.library.name} ({self.library.call}) answers with {', '.join(pair.theirs)}, our reading of the "
                f"folder with {', '.join(pair.ours)}",
                where=str(self.source.folder),
                hint="the modules that the folder lists do not make what was read: please report this line",
            )
        for name in shared:
            error = relative_error(pair.ours[name], pair.theirs[name], self.scales[name])
            if not error <= TOLERANCE:
                raise _refusal(self.source, self.library, replace(pair, output=name, error=error), self.scales)
            self.worst = max(self.worst, error)


def _compared(
    source: "TorchModel", reference: Reference, library: OwnerLibrary, progress: "Progress"
) -> tuple[int, int, float]:
    """Return the texts compared, those compared in a batch, and the largest difference."""
    judged = {i: j for i, j in enumerate(reference.judged) if library.takes(j.example)}
    made = _Comparison(source, library, judged, _scales([j.outputs for j in judged.values()]))
    alone, mixed, rest = _shared_out(judged)
    with progress.task(f"Asking {library.name}", total=len(alone) + len(mixed) + sum(map(len, rest))) as ticker:
        made.alone(alone, ticker)
        if mixed:
            made.together(mixed, ticker, padded=True)
        for batch in rest:
            made.together(batch, ticker, padded=library.tokenizer.padding_side == "left")
    return len(judged), made.n_batched, made.worst


def _shared_out(judged: dict[int, Judged]) -> tuple[list[int], list[int], list[list[int]]]:
    """Return the texts to ask about alone, a batch of unequal lengths, and batches of like length of the rest.

    Batches take half the time, and a reading that is wrong is wrong for more than one text.
    """
    edges = [p for p, j in judged.items() if is_edge(j.example)]
    ordinary = sorted(judged.keys() - set(edges))
    alone = [*ordinary[:: -(-len(ordinary) // ALONE) or 1], *edges]
    by_length = sorted(judged, key=lambda p: judged[p].encoding.length)
    short = [p for p in by_length if judged[p].encoding.length <= MIXED_TOKENS]
    mixed = short if len(short) <= MIXED else [short[i * (len(short) - 1) // (MIXED - 1)] for i in range(MIXED)]
    rest: list[list[int]] = []
    for place in (p for p in by_length if p not in alone and p not in mixed):
        wide = (len(rest[-1]) + 1) * judged[place].encoding.length > BATCH_TOKENS if rest else True
        if wide or len(rest[-1]) >= BATCH:
            rest.append([])
        rest[-1].append(place)
    return alone, mixed if len(mixed) > 1 else [], rest


def _asked(library: OwnerLibrary, answers: Iterable[Outputs], folder: Path) -> Iterator[Outputs]:
    """Pass answers on; what the library itself cannot answer has no right answer that ours could be held to."""
    try:
        yield from answers
    except MemoryError:
        raise
    except Exception as error:
        raise SourceError(
            f"{library.name} ({library.call}) itself fails on the folder ({first_line(error)})",
            where=str(folder),
            hint="try it there first: what its own library does not answer has no right answer",
        ) from error


def _scales(rows: "Sequence[Outputs]") -> dict[str, float]:
    """Return what errors of each output are told relative to."""
    made = {}
    for name in rows[0] if rows else ():
        high, low = max(float(r[name].max()) for r in rows), min(float(r[name].min()) for r in rows)
        made[name] = (high - low) + FLOOR * max(abs(high), abs(low)) or 1.0
    return made


def padded_answers(source: "TorchModel", probes: Sequence[Probe], run: Run, side: str) -> "list[Outputs]":
    """Run texts as one batch of ours, padded on `side` as their own tokenizer pads."""
    encodings = [p.encoding for p in probes]
    feed = pad_batch(encodings, source.specs[MODEL])
    width = next(iter(feed.values())).shape[1]
    if side == "left":
        shifts = [width - e.length for e in encodings]
        feed = {n: np.stack([np.roll(r, s) for r, s in zip(rows, shifts, strict=True)]) for n, rows in feed.items()}
    made = run(MODEL, feed)
    along = names_along(source.task.outputs, SEQUENCE)
    found: list[Outputs] = []
    for row, encoding in enumerate(encodings):
        first = width - encoding.length if side == "left" else 0
        own = {n: v[row, first : first + encoding.length] if n in along else v[row] for n, v in made.items()}
        found.append(dict(source.task.compared(own, encoding)))
    return found


def _refuse_unread_inputs(source: "TorchModel") -> None:
    import inspect

    taken = inspect.signature(source.module.forward).parameters
    unread = [name for name in UNREAD_INPUTS if name in taken and name not in source.input_names]
    if unread:
        raise SourceError(
            f"{source.config.model_type} reads {unread[0]} beside the text, which no text alone gives: the package "
            "would answer without",
            where=str(source.folder),
            hint="export a model that reads text alone",
        )


def _refusal(source: "TorchModel", library: OwnerLibrary, found: Difference, scales: dict[str, float]) -> SourceError:
    reason = explain(source, library, found, scales)
    text = _shown(found.probe.example)
    far = "of another shape" if found.error == float("inf") else f"off by {found.error:.2g} of its range"
    return SourceError(
        f"our reading of the folder does not answer like {library.name} ({library.call}): {reason} "
        f"(for the text {text!r} {found.output} is {far})",
        where=str(source.folder),
        hint="nothing was made, since every answer would be wrong; please report this line",
    )


def _shown(example: Example) -> str:
    text = example.text if example.pair is None else f"{example.text} / {example.pair}"
    return shorten(text)
