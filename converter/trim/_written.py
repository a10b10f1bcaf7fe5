"""The text that trimming goes by, and the tokens of what a model writes: right answers, and its own."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.data.probes import even_sample
from converter.examples import References
from converter.generate.loop import generate
from converter.reference import feed_of, torch_run
from converter.stage import SILENT

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.examples import Example
    from converter.stage import Context

OWN = 512
"""Texts that the model itself answers, or continues: what it then writes it can write afterwards."""
AT_ONCE = 32
LONGEST = 64
"""Tokens of such an answer."""
WHOLE = 1 << 20


def text_of_user(ctx: "Context") -> "Sequence[Example]":
    """Return the calibration text, none of it where it is built in: its words are nobody's."""
    return () if ctx.calibration_is_builtin else ctx.calibration


def path_of(file: str) -> Path:
    """Return where a file of an option is, one of a sample too."""
    from converter.model_folder.samples import resolve_data

    return resolve_data(Path(file), SILENT)


def texts_in(corpus: Sequence[str]) -> Iterator[str]:
    """Yield the texts of the files of an option."""
    from converter.data.files import read_texts

    for file in corpus:
        yield from read_texts(path_of(file))


def refuse_unreadable(corpus: Sequence[str]) -> None:
    """Read the first text of each file of an option; the error names the file."""
    for file in corpus:
        next(texts_in((file,)))


def count_written(model: "TorchModel", corpus: Sequence[str], ctx: "Context") -> Counter[int]:
    """Return how often each token occurs in right answers to the calibration text, in `corpus` and in own answers."""
    found: Counter[int] = Counter()
    if model.cache is None:
        return found
    task: Any = model.task
    examples = text_of_user(ctx)
    right = [t for e in examples if isinstance(e.label, References) for t in e.label.texts]
    for text in (*right, *texts_in(corpus)):
        found.update(task.answer_ids(text, WHOLE).tolist())
    own = even_sample(examples, OWN) if examples else ()
    asked = [task.encode(model.tokenizer, replace(e, label=None), model.max_length) for e in own]
    asked.sort(key=lambda encoding: encoding.length)
    settings = replace(task.settings, sample=False, beams=1, max_new_tokens=LONGEST)
    run, specs = torch_run(model), model.specs
    with ctx.progress.task("Reading what the model writes", total=len(asked)) as ticker:
        for begin in range(0, len(asked), AT_ONCE):
            batch = asked[begin : begin + AT_ONCE]
            for ids in generate(run, specs, feed_of(model, batch), settings).texts(settings):
                found.update(ids)
            ticker.advance(len(batch))
    return found
