"""The golden vectors as a table that the samples' self-test reads: no library, no JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.device.tables import escaped
from converter.task import Judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.device.facts import DeviceFacts
    from converter.examples import Encoding, Example
    from converter.golden import Golden

GOLDEN_FILE = "golden.tsv"
MAX_VALUES = 40_000
"""Numbers in the table, about half a megabyte."""


def write_golden_table(
    golden: "Golden", source: "TorchModel", facts: "DeviceFacts", tolerance: float, folder: Path
) -> int:
    """Write `golden.tsv`; returns how many texts it holds.

    Lines: `tolerance`, `range` per output, and per text: text, second text, ids, type ids, which text each token is
    from, the answer in words, and outputs as names and numbers (none for fill-mask: they are cut to the masks).
    """
    lines = [f"tolerance\t{tolerance:g}"]
    lines += [f"range\t{name}\t{max(value, 1e-6):.9g}" for name, value in golden.output_range.items()]
    texts = list(_texts(golden, source, facts))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GOLDEN_FILE).write_bytes(("\n".join([*lines, *texts]) + "\n").encode())
    return len(texts)


def _texts(golden: "Golden", source: "TorchModel", facts: "DeviceFacts") -> Iterator[str]:
    room = MAX_VALUES
    limit = replace(source, max_length=min(source.max_length, facts.max_length))
    for i, example in enumerate(golden.examples):
        outputs = golden.package[i]
        size = 0 if facts.kind == "mask" else sum(v.size for v in outputs.values())
        if size > room:
            continue
        room -= size
        encoding = limit.task.encode(limit.tokenizer, example, limit.max_length)
        text = example.text if example.words is None else " ".join(example.words)
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
        if facts.kind != "mask":
            cells += [c for name, value in outputs.items() for c in (name, _floats(value))]
        yield "\t".join(cells)


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
    if facts.kind in {"embedding", "tokens", "score"} or (not facts.wordpiece and facts.kind in {"tags", "span"}):
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
    return " ".join(f"{v:.8g}" for v in values.ravel())
