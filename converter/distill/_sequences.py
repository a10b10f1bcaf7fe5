"""What a teacher writes about texts, kept in a file: as text for people, as token ids for the student."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.beginnings import first_half
from converter.errors import DataError, UsageError
from converter.examples import Encoding, Example, References
from converter.generate.loop import generate
from converter.generate.settings import GenerationSettings
from converter.reference import feed_of, torch_run
from converter.stage import Outcome
from converter.structured.importance import choose_texts
from converter.surgery.vocabulary import in_vocabulary_of
from converter.training.distillation import distill_texts
from converter.training.texts import Text

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.distill.sequence import SequenceLevel
    from converter.stage import Context

NAME = "distill.sequence"
FORMAT = 1
AT_ONCE = 64
"""Texts that the teacher answers side by side; with beams, fewer by as many."""
Written = dict[int, list[int]]
"""Token ids by the number of the text."""


def distill_sequences(stage: "SequenceLevel", given: "TorchModel", ctx: "Context") -> "Outcome[TorchModel]":
    """Let the teacher write, and train a copy of `given` on that.

    Raises:
        UsageError: no teacher, or a file of what another teacher wrote.
        DataError: no text.

    """
    if ctx.teacher is None:
        raise UsageError("there is no teacher to write", where=NAME, hint="set Context.teacher to the source")
    if not ctx.calibration:
        raise DataError("there is no text to write about", where=NAME, hint="give --calibration FILE")
    teacher = in_vocabulary_of(given, ctx.teacher)
    examples = choose_texts(ctx, stage.texts)
    asked = [_asked(given, example, stage.max_length) for example in examples]
    settings = replace(given.task.settings, sample=False, beams=stage.beams, max_new_tokens=stage.longest)  # type: ignore[attr-defined]
    path = _place(stage, ctx)
    header = {"format": FORMAT, "key": _key(teacher, asked, settings), "texts": len(asked), "beams": stage.beams}
    written = _read(path, header, own=bool(stage.file))
    n_known = len(written)
    _write(path, header, teacher, asked, settings, written, ctx)
    texts = tuple(_text(given, e, q, written[i]) for i, (e, q) in enumerate(zip(examples, asked, strict=True)))
    learned = replace(ctx, calibration=tuple(example for example, _ in texts))
    made = distill_texts(NAME, stage, stage.weights, given, learned, texts)
    tokens = sum(map(len, written.values()))
    about = {"texts": len(texts), "tokens": tokens, "read_from_file": n_known, "beams": stage.beams}
    return Outcome(made.made, {**made.facts, "written": about})


def _place(stage: "SequenceLevel", ctx: "Context") -> Path:
    """Return where it is kept; a process of a launch that is not the first writes the same to a file of its own."""
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return ctx.work / "sequences.jsonl"
    if stage.file and Path(stage.file).is_dir():
        raise UsageError("it is a folder", where=stage.file, hint="name a file")
    return Path(stage.file) if stage.file else (ctx.resume or ctx.work) / "sequences.jsonl"


def _asked(model: "TorchModel", example: Example, max_length: int) -> Encoding:
    """Encode what the teacher answers: the text, or of one that is continued its first half."""
    causal = model.task.kind == "decoder"
    if causal and not (isinstance(example.label, References) and example.label.texts):
        example = replace(example, text=first_half(example.text))
    limit = min(max_length, model.max_length)
    return model.task.encode(model.tokenizer, replace(example, label=None), limit)


def _text(model: "TorchModel", example: Example, asked: Encoding, ids: Sequence[int]) -> Text:
    task: Any = model.task
    said = task.read_written(ids)
    return replace(example, label=References((said,))), task.with_answer(asked, np.asarray(ids, dtype=np.int64))


def _key(teacher: "TorchModel", asked: Sequence[Encoding], settings: GenerationSettings) -> str:
    """Return the digest of all that decides what is written."""
    made = hashlib.sha256(f"{teacher.digest} {settings}".encode())
    for encoding in asked:
        made.update(encoding.inputs["input_ids"].tobytes() + b"|")
    return made.hexdigest()


def _read(path: Path, header: Mapping[str, Any], *, own: bool) -> Written:
    """Return what a file has of these texts; one that was cut off in the middle of a line lacks that line.

    Raises:
        UsageError: the user's own file is of other texts, or of another teacher.

    """
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", errors="replace") as opened:
        lines = list(_lines(opened))
    if not lines or lines[0] != header:
        if own:
            raise UsageError(
                "the file was not written by this teacher about these texts",
                where=str(path),
                hint="name another file, or remove this one",
            )
        return {}
    try:
        return {int(line["row"]): [int(i) for i in line["ids"]] for line in lines[1:]}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the file is damaged ({error!r})", where=str(path), hint="remove it") from None


def _lines(opened: Any) -> Iterator[Any]:
    for line in opened:
        try:
            yield json.loads(line)
        except ValueError:
            return


def _write(
    path: Path,
    header: Mapping[str, Any],
    teacher: "TorchModel",
    asked: Sequence[Encoding],
    settings: GenerationSettings,
    written: Written,
    ctx: "Context",
) -> None:
    """Add to `written` and to the file what is missing, texts of like length side by side."""
    task: Any = teacher.task
    run, specs = torch_run(teacher), teacher.specs
    missing = sorted((i for i in range(len(asked)) if i not in written), key=lambda i: asked[i].length)
    path.parent.mkdir(parents=True, exist_ok=True)
    at_once = max(1, AT_ONCE // settings.beams)
    with path.open("w", encoding="utf-8") as opened, ctx.progress.task("The teacher writes", total=len(asked)) as shown:
        print(json.dumps(dict(header)), file=opened)
        for row, ids in written.items():
            print(_line(task, row, ids), file=opened)
        shown.advance(len(written))
        for begin in range(0, len(missing), at_once):
            rows = missing[begin : begin + at_once]
            feed = feed_of(teacher, [asked[i] for i in rows])
            texts = generate(run, specs, feed, settings).texts(settings)
            for row, ids in zip(rows, texts, strict=True):
                written[row] = ids
                print(_line(task, row, ids), file=opened, flush=True)
            shown.advance(len(rows))


def _line(task: Any, row: int, ids: Sequence[int]) -> str:
    said = task.read_written(ids) if task._tokenizer is not None else ""  # noqa: SLF001
    return json.dumps({"row": row, "text": said, "ids": list(ids)}, ensure_ascii=False)
