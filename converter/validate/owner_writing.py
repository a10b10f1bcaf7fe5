"""Our own loop on the source, held to `generate` of its owner's library: the same tokens in, the same tokens out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError
from converter.generate.drafts import alike
from converter.model_folder.locate import encoder_folder_of
from converter.owner.contract import NotAvailable, first_line
from converter.owner.writing import WritingLibrary
from converter.resources import release_memory
from converter.scoring.continuation import first_parting
from converter.validate.answers import shorten

if TYPE_CHECKING:
    from converter.artifact import TorchModel
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


def compare_writing(source: "TorchModel", reference: "Reference", progress: "Progress") -> SameWriting:
    """Compare every probe's tokens, read and written.

    Raises:
        NotAvailable: what the library needs is not installed.
        SourceError: the library fails on the folder, or reads or writes other tokens.

    """
    folder = encoder_folder_of(source.folder)
    release_memory()  # of the source: the library maps the same weights again
    try:
        library = WritingLibrary(folder, source.task)
    except ImportError as error:
        raise NotAvailable(f"{error.name or error} is not installed") from None
    except Exception as error:  # noqa: BLE001 - it raises classes of its own for a folder that it refuses
        raise SourceError(
            f"the library of its owner does not load it ({first_line(error)})",
            where=str(folder),
            hint="load it there first: what its own library refuses has no right answer",
        ) from None
    ties = 0
    with progress.task(f"Asking {library.name}", total=len(reference.judged)) as ticker:
        for rows in alike([len(j.encoding.inputs["input_ids"]) for j in reference.judged]):
            texts = [reference.judged[i] for i in rows]
            for one, alike_ours in zip(texts, _together(source, library, texts), strict=True):
                # What differs beside others is asked about alone: that is what the answer is held to.
                ties += 0 if alike_ours else _compare(source, library, one)
                ticker.advance()
    made = SameWriting(library.name, library.call, ties)
    del library  # as large as the source itself
    release_memory()
    return made


def _together(source: "TorchModel", library: WritingLibrary, texts: "Sequence[Judged]") -> list[bool]:
    """Return of each of some texts whether the library reads it and writes after it, in one batch, as we do alone."""
    task: Any = source.task
    read = [_read(source, library, one) for one in texts]
    if len(texts) < 2 or not all(read):
        return [False] * len(texts)
    try:
        found = library.written_together(read, task.judged_settings.max_new_tokens, task.asked)
    except Exception:  # noqa: BLE001 - whatever a batch makes it fail by: each is asked about alone
        return [False] * len(texts)
    return [
        j.encoding.answer is not None and f == j.encoding.answer.tolist() for j, f in zip(texts, found, strict=True)
    ]


def _read(source: "TorchModel", library: WritingLibrary, one: "Judged") -> list[int]:
    """Return a text as the library reads it, which must be as we do; none where only we begin it with a token."""
    task: Any = source.task
    ours = one.encoding.inputs["input_ids"].tolist()
    theirs = library.read(task.prompt + one.example.text, len(ours) if one.encoding.truncated else source.max_length)
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
