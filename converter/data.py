"""Evaluation and calibration files."""

import csv
from pathlib import Path

from converter.errors import DataError
from converter.examples import Example
from converter.task import Task


def read_examples(path: Path, task: Task) -> tuple[Example, ...]:
    try:
        with path.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened, delimiter="\t", quoting=csv.QUOTE_NONE))
    except FileNotFoundError:
        raise DataError("no such file", where=str(path)) from None
    made = tuple(Example(r["sentence"], label=int(r["label"]), where=f"{path}:{i}") for i, r in enumerate(rows, 2))
    task.check_labels(made)
    return made
