"""The golden vectors as a table that the samples' self-test reads: no library, no JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.device.tables import escaped
from converter.scoring.relative_error import REPLAY_FLOOR
from converter.task import Judged
from converter.validate.stability import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.device.facts import DeviceFacts
    from converter.examples import Encoding, Example
    from converter.package.golden import Golden

GOLDEN_FILE = "golden.tsv"
MAX_VALUES = 40_000
"""Numbers in the table, about half a megabyte."""


def write_golden_table(
    golden: "Golden", source: "TorchModel", facts: "DeviceFacts", tolerance: float, folder: Path
) -> int:
    """Write `golden.tsv`; returns how many texts it holds.

    Lines: `tolerance`, `range` per output, and per text: text, second text, ids, type ids, which text each token is
    from, the answer in words, and each output as three cells: its name, runs (`1920:384`: the place in the raw output
    that a run begins at, and how many numbers it has), and the numbers of all runs.
    """
    lines = [f"tolerance\t{tolerance:g}"]
    lines += [f"range\t{name}\t{max(value, REPLAY_FLOOR):.9g}" for name, value in golden.output_range.items()]
    texts = list(_texts(golden, source, facts))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GOLDEN_FILE).write_bytes(("\n".join([*lines, *texts]) + "\n").encode())
    return len(texts)


def rows_in(path: Path) -> list[list[str]]:
    """Return the cells of each line of a table.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.

    """
    # Not `splitlines`: a text may hold what Unicode calls a line end.
    return [line.split("\t") for line in path.read_bytes().decode().split("\n")[:-1]]


def _texts(golden: "Golden", source: "TorchModel", facts: "DeviceFacts") -> Iterator[str]:
    shares = _shares([sum(v.size for v in outputs.values()) for outputs in golden.package], narrow=facts.kind == "mask")
    limit = replace(source, max_length=min(source.max_length, facts.max_length))
    for i, example in enumerate(golden.examples):
        if example.window:
            continue  # the samples' encode gives the first window of a text
        outputs = golden.package[i]
        encoding = limit.task.encode(limit.tokenizer, example, limit.max_length)
        # As the tokenizer gets it: the self-test of the samples asks their tokenizer itself.
        text = limit.task.prompt + (example.text if example.words is None else " ".join(example.words))
        ids = golden.ids[i]["input_ids"]
        cells = [
            "text",
            escaped(text),
            f"+{escaped(example.pair or '')}" if example.pair is not None or facts.kind == "span" else "-",
            _numbers(ids),
            _numbers(golden.ids[i].get("token_type_ids", np.zeros_like(ids))),
            _numbers([-1 if s is None else s for s in encoding.sequence_ids]),
            escaped(_answer(limit, facts, example, encoding, outputs)),
        ]
        for name, values in outputs.items():
            cells += [name, *_runs(facts, encoding, values, shares[i] // len(outputs))]
        yield "\t".join(cells)


def _shares(sizes: Sequence[int], *, narrow: bool) -> list[int]:
    """Return how many numbers each text gets: short texts all of theirs, the longer ones equal parts of what is left.

    The shortest gets up to half of all, so that one text is whole; `narrow`: none need be.
    """
    made, room = [0] * len(sizes), MAX_VALUES
    for place, i in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        first = not place and not narrow and sizes[i] <= room // 2
        made[i] = min(sizes[i], room if first else room // (len(sizes) - place))
        room -= made[i]
    return made


def _runs(facts: "DeviceFacts", encoding: "Encoding", values: "NDArray[np.float32]", room: int) -> tuple[str, str]:
    """Return an output's runs and numbers: some of its rows, or of the masks' rows that part that holds the best."""
    rows = values.reshape(-1, values.shape[-1])
    width = rows.shape[1]
    # Of fill-mask's raw output the task keeps these rows alone.
    places = [p for p, _ in encoding.masked] or [0] if facts.kind == "mask" else list(range(len(rows)))
    kept = range(len(rows)) if facts.kind == "mask" else spread(range(len(rows)), max(1, room // width))
    n = max(1, min(width, room // len(kept)))
    begins = {i: min(max(0, int(np.argmax(rows[i])) - n // 2), width - n) for i in kept}
    runs = " ".join(f"{places[i] * width + begin}:{n}" for i, begin in begins.items())
    return runs, _floats(np.concatenate([rows[i, begin : begin + n] for i, begin in begins.items()]))


def _answer(
    source: "TorchModel",
    facts: "DeviceFacts",
    example: "Example",
    encoding: "Encoding",
    outputs: "dict[str, NDArray[np.float32]]",
) -> str:
    """Say what the samples' `describe` must say."""
    if facts.kind == "tags":
        # A sample cuts words at white space; the tokenizer's own idea of words differs where text is not pre-split.
        text = example.text if example.words is None else " ".join(example.words)
        example = replace(example, words=tuple(text.split()))
        encoding = source.task.encode(source.tokenizer, example, source.max_length)
    if facts.kind in {"embedding", "tokens", "score"} or (not facts.own_tokenizer and facts.kind in {"tags", "span"}):
        return ""
    decision = source.task.decisions([Judged(example, encoding, outputs)])[0]
    return _words(facts, decision)


def _words(facts: "DeviceFacts", decision: Any) -> str:
    match facts.kind:
        case "classes":
            return facts.labels[decision]
        case "multi":
            return ", ".join(facts.labels[i] for i in sorted(decision))
        case "span":
            return "" if decision.null else decision.text
        case _:
            return " ".join(map(str, decision))


def _numbers(values: "Sequence[int] | NDArray[np.int64]") -> str:
    return " ".join(str(int(v)) for v in values)


def _floats(values: "NDArray[np.float32]") -> str:
    return " ".join(f"{v:.8g}" for v in values)
