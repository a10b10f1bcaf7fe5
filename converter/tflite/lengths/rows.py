"""Real text that fills a signature to its last token, so that nothing is measured on padding."""

from collections.abc import Iterator
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from converter.data.probes import builtin_examples
from converter.errors import StageFailed
from converter.examples import Encoding, Example

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Context


def filled_rows(source: "TorchModel", ctx: "Context", length: int, count: int) -> list[Encoding]:
    """Return `count` rows of exactly `length` tokens: texts cut there, and shorter ones with the next appended."""
    return list(islice(_rows(source, ctx.calibration or builtin_examples(source), length), count))


def _rows(source: "TorchModel", examples: "tuple[Example, ...]", length: int) -> Iterator[Encoding]:
    if all(len(_encoded(source, e, length)["input_ids"]) < 2 for e in examples):
        raise StageFailed("the calibration text has no tokens", where=source.provenance.id, hint="give --calibration")
    texts = cycle(examples)
    while True:
        made = _encoded(source, next(texts), length)
        while len(made["input_ids"]) < length:
            # Without its first token, which begins a text only once.
            more = _encoded(source, next(texts), length)
            made = {n: np.concatenate([ids, more[n][1:] if len(ids) else more[n]])[:length] for n, ids in made.items()}
        yield Encoding(made)


def _encoded(source: "TorchModel", example: Example, length: int) -> "dict[str, np.ndarray]":
    found = source.task.encode(source.tokenizer, example, source.max_length).inputs
    return {name: ids[:length] for name, ids in found.items()}
