"""Texts that neither a good package nor its gate has seen: what a planted fault changes is measured on them."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from _measure import SHARED

from converter.examples import Example

HELD_OUT = 2000
HELD_OUT_WRITTEN = 400
"""Texts that a model writes after, of those held out: each costs as many calls as it writes tokens."""
WRITERS = ("text-generation", "translation")
"""Tasks that write text."""
SAMPLE = "sample:"
FOREIGN = 8
"""Every so manieth text of a sample's is one of other people: a user's text is not what a model was taught on."""


def held_out(model: str, task: str) -> tuple[Example, ...]:
    """Return the texts that a package of `model` is asked; a sample gets what its own grammar makes, and others."""
    texts = _reviews()
    if model.startswith(SAMPLE):
        texts = _of_sample(model.removeprefix(SAMPLE), task, texts)
    elif task in WRITERS:
        texts = [" ".join(t.split()[:12]) for t in texts[:HELD_OUT_WRITTEN]]
    if task == "question-answering":
        return tuple(Example(" ".join(t.split()[:5]) or "what", t) for t in texts)
    if task == "token-classification":
        return tuple(Example(t, words=tuple(t.split()[:40])) for t in texts)
    return tuple(Example(t) for t in texts)


def _reviews() -> list[str]:
    """Return texts of other people: the training split of SST-2, which nothing here is calibrated or judged on."""
    path = SHARED / "data" / "sst2" / "train.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.rpartition("\t")[0] for line in lines]
    chosen = [texts[i] for i in np.random.default_rng(7).permutation(len(texts))[:HELD_OUT]]
    # A quarter is long: several reviews in a row.
    chosen = [_longer(chosen, i, 8) if i % 4 == 0 else text for i, text in enumerate(chosen)]
    return [t.title() if i % 10 == 1 else t for i, t in enumerate(chosen)]


def _longer(texts: list[str], at: int, most: int) -> str:
    return " ".join(texts[(at + k) % len(texts)] for k in range(most))


def _of_sample(name: str, task: str, reviews: list[str]) -> list[str]:
    """Return what the sample's grammar makes and its own files do not hold; a quarter is long, an eighth others'."""
    made: Any = importlib.import_module(f"sample_models.{name}")
    n = HELD_OUT_WRITTEN if task in WRITERS else HELD_OUT
    rows = made.rows(made.N_HELD_OUT + n, held_out=True)[made.N_HELD_OUT :]
    texts = [next(str(row[k]) for k in ("source", "text", "sentence") if k in row) for row in rows]
    if task == "text-generation":  # the beginning of a story, of which a quarter is all but its end
        words = [t.split() for t in texts]
        texts = [" ".join(w[: len(w) * 3 // 4] if i % 4 == 0 else w[: 3 + i % 12]) for i, w in enumerate(words)]
    else:
        texts = [_longer(texts, i, 3) if i % 4 == 0 else t for i, t in enumerate(texts)]
    return [" ".join(reviews[i].split()[:12]) if i % FOREIGN == FOREIGN - 1 else t for i, t in enumerate(texts)]


def calibration_file(model: str, task: str, folder: Path) -> str:
    """Return text for a target that takes no built-in one: a sample's own, or a few of other people's lines."""
    if model.startswith(SAMPLE):
        return f"{model}/train.{'txt' if task == 'text-generation' else 'tsv'}"
    path = folder / f"{model}-{task}.txt"
    path.write_text("\n".join(e.text for e in held_out(model, task)[::20]) + "\n", encoding="utf-8")
    return str(path)
