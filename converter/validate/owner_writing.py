"""Our own loop on the source, held to `generate` of its owner's library: the same tokens in, the same tokens out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import SourceError
from converter.generate.drafts import alike
from converter.model_folder.locate import encoder_folder_of
from converter.owner.contract import NotAvailable, first_line
from converter.owner.writing import WritingLibrary
from converter.reference import Probe
from converter.resources import made_in_threads, release_memory
from converter.scoring.continuation import first_parting
from converter.validate.answers import shorten
from converter.validate.asked import Ids, ids_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.examples import Encoding, Example
    from converter.reference import Reference
    from converter.stage import Progress
    from converter.task import Judged

TIE = 1e-4


@dataclass(frozen=True)
class SameWriting:
    """Who was asked; in `ties` texts the two choose differently between tokens of equal score."""

    library: str
    call: str
    ties: int


@dataclass
class OwnerDrafts:
    """What the library writes, several texts at a time, before the source is asked: the source's answers in draft.

    The library writes them in any case, and a model that chooses each of their tokens itself would write the same.
    """

    source: "TorchModel"
    progress: "Progress"
    name: str = ""
    known: "dict[tuple[Example, Ids], list[int]]" = field(default_factory=dict)
    """Tokens written after each text that the library reads as we do, by the text and by its ids."""

    def __call__(self, probes: "Sequence[Probe]") -> "list[NDArray[np.int64] | None]":
        try:
            library = _opened(self.source)
        except (NotAvailable, SourceError):
            return [None] * len(probes)  # `compare_writing` says so
        self.name = library.name
        self._ask(library, probes)
        del library  # as large as the source itself
        release_memory()
        asked = (self.after(p.example, p.encoding) for p in probes)
        return [None if tokens is None else np.asarray(tokens, dtype=np.int64) for tokens in asked]

    def after(self, example: "Example", encoding: "Encoding") -> list[int] | None:
        return self.known.get((example, ids_of(encoding)))

    def _ask(self, library: WritingLibrary, probes: "Sequence[Probe]") -> None:
        from converter.forward import side_by_side

        batches = [[probes[i] for i in rows] for rows in alike([len(p.encoding.inputs["input_ids"]) for p in probes])]
        drafts = made_in_threads(partial(self._together, library), batches, alone=not side_by_side(self.source))
        with self.progress.task(f"Asking {library.name}", total=len(probes)) as ticker:
            for batch, found in zip(batches, drafts, strict=True):
                self.known |= found
                ticker.advance(len(batch))

    def _together(self, library: WritingLibrary, probes: "Sequence[Probe]") -> "dict[tuple[Example, Ids], list[int]]":
        """Let the library write in one batch; whatever a batch makes it fail by, each is asked about alone later."""
        task: Any = self.source.task
        try:
            read = [_as_read(self.source, library, p.example, p.encoding) for p in probes]
            alike_ours = [p for p, ids in zip(probes, read, strict=True) if ids == _ids(p.encoding)]
            if len(alike_ours) < 2:
                return {}
            given = [_ids(p.encoding) for p in alike_ours]
            found = library.written_together(given, task.judged_settings.max_new_tokens, task.asked)
        except Exception:  # noqa: BLE001 - it raises classes of its own
            return {}
        pairs = zip(alike_ours, found, strict=True)
        return {(p.example, ids_of(p.encoding)): tokens for p, tokens in pairs if tokens}


def compare_writing(
    source: "TorchModel", reference: "Reference", progress: "Progress", drafts: OwnerDrafts | None = None
) -> SameWriting:
    """Compare every probe's tokens, read and written; `drafts` are those that the library wrote before.

    Raises:
        NotAvailable: what the library needs is not installed.
        SourceError: the library fails on the folder, or reads or writes other tokens.

    """
    drafts = drafts or OwnerDrafts(source, progress)
    if not drafts.name:
        drafts([Probe(j.example, j.encoding) for j in reference.judged])
    # What differs beside others is asked about alone: that is what the answer is held to.
    alone = [j for j in reference.judged if drafts.after(j.example, j.encoding) != _answer(j)]
    if drafts.name and not alone:
        return SameWriting(drafts.name, WritingLibrary.call, 0)
    library = _opened(source)
    ties = 0
    with progress.task(f"Asking {library.name}", total=len(alone)) as ticker:
        for one in alone:
            ties += _compare(source, library, one)
            ticker.advance()
    made = SameWriting(library.name, library.call, ties)
    del library  # as large as the source itself
    release_memory()
    return made


def _opened(source: "TorchModel") -> WritingLibrary:
    folder = encoder_folder_of(source.folder)
    release_memory()  # of the source: the library maps the same weights again
    try:
        return WritingLibrary(folder, source.task)
    except ImportError as error:
        raise NotAvailable(f"{error.name or error} is not installed") from None
    except Exception as error:  # noqa: BLE001 - it raises classes of its own for a folder that it refuses
        raise SourceError(
            f"the library of its owner does not load it ({first_line(error)})",
            where=str(folder),
            hint="load it there first: what its own library refuses has no right answer",
        ) from None


def _ids(encoding: "Encoding") -> list[int]:
    ids: list[int] = encoding.inputs["input_ids"].tolist()
    return ids


def _answer(one: "Judged") -> list[int] | None:
    return None if one.encoding.answer is None else one.encoding.answer.tolist()


def _as_read(source: "TorchModel", library: WritingLibrary, example: "Example", encoding: "Encoding") -> list[int]:
    """Return the ids that the library reads of a text, where it is cut as we cut it."""
    task: Any = source.task
    limit = len(encoding.inputs["input_ids"]) if encoding.truncated else source.max_length
    return library.read(task.prompt + example.text, limit)


def _read(source: "TorchModel", library: WritingLibrary, one: "Judged") -> list[int]:
    """Return a text as the library reads it, which must be as we do; none where only we begin it with a token."""
    ours, theirs = _ids(one.encoding), _as_read(source, library, one.example, one.encoding)
    if theirs != ours and (theirs or len(ours) > 1):
        raise _refusal(source, library, one, f"reads {theirs[:20]}, our tokenizer {ours[:20]}")
    return theirs


def _compare(source: "TorchModel", library: WritingLibrary, one: "Judged") -> bool:
    """Return whether the two part at a tie."""
    task: Any = source.task
    theirs = _read(source, library, one)
    answer = one.encoding.answer
    assert answer is not None
    try:
        found = library.written(theirs, task.judged_settings.max_new_tokens, task.asked)
    except Exception as error:
        raise SourceError(
            f"{library.name} ({library.call}) itself fails on the folder ({first_line(error)})",
            where=str(source.folder),
            hint="try it there first: what its own library does not answer has no right answer",
        ) from error
    parting = first_parting(answer.tolist(), found, one.outputs["logits"], TIE)
    if parting is not None and not parting.tie:
        raise _refusal(source, library, one, f"writes {task.written(found)!r}, our loop {task.written(answer)!r}")
    return parting is not None


def _refusal(source: "TorchModel", library: WritingLibrary, one: "Judged", what: str) -> SourceError:
    return SourceError(
        f"our reading of the folder does not answer like {library.name} ({library.call}): for the text "
        f"{shorten(one.example.text)!r} it {what}",
        where=str(source.folder),
        hint="nothing was made, since every answer would be wrong; please report this line",
    )
