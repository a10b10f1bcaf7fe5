"""Models that write text, saved and loaded once for many tests, and text for them to learn from."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.examples import Example, References
from converter.model_folder.load import load_source
from converter.stage import Context
from tests.tiny import SENTENCES
from tests.tiny_text import save_causal, save_marian, save_t5

KINDS: dict[str, Callable[[Path], Path]] = {
    "marian": save_marian,
    "t5": save_t5,
    "gpt2": save_causal,
    "llama": lambda folder: save_causal(folder, "llama"),
    "qwen3": lambda folder: save_causal(folder, "qwen3"),
    "gemma2": lambda folder: save_causal(folder, "gemma2"),
}


def loaded_once(
    kinds: Mapping[str, Callable[[Path], Path]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TorchModel]:
    """Return what loads the model of a kind, each saved and loaded once; do not change it."""

    @functools.cache
    def load(kind: str) -> TorchModel:
        return load_source(str(kinds[kind](tmp_path_factory.mktemp(kind) / "model")))

    return load


def context(model: TorchModel, work: Path, **more: Any) -> Context:
    """Return a context whose texts have right answers, the words written backwards, where the model answers."""
    answers = [" ".join(word[::-1] for word in text.split()) for text in SENTENCES]
    texts = () if model.task.kind == "decoder" else answers
    labels = [References((text,)) for text in texts] or [References(())] * len(SENTENCES)
    calibration = tuple(Example(t, label=label) for t, label in zip(SENTENCES, labels, strict=True))
    return Context(work, calibration=calibration, teacher=model, **more)


def scores(model: TorchModel, example: Example, reader: TorchModel | None = None) -> "np.ndarray[Any, Any]":
    """Return the logits at every step of an answer, as `reader` (the model itself) reads it."""
    import torch

    from converter.reference import feed_of

    reads = reader or model
    encoding = reads.task.learned(reads.tokenizer, example, model.max_length)
    feed = {n: torch.from_numpy(rows) for n, rows in feed_of(model, [encoding]).items()}
    with torch.no_grad():
        made: np.ndarray[Any, Any] = model.whole()(**feed)["logits"].numpy()
    return made
