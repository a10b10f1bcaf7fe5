"""What tests of pruning share."""

from pathlib import Path
from typing import Any

from converter.artifact import TorchModel
from converter.examples import Example
from converter.graphs import MODEL
from converter.reference import feed_of, torch_run
from converter.stage import Context
from converter.surgery.resize import family_of
from tests.tiny import SENTENCES

PLAIN = tuple(Example(t) for t in SENTENCES)


def context(tmp_path: Path, calibration: tuple[Example, ...] = PLAIN, seed: int = 0) -> Context:
    return Context(work=tmp_path, seed=seed, calibration=calibration)


def answers(model: TorchModel) -> dict[str, Any]:
    encodings = [model.task.encode(model.tokenizer, e, model.max_length) for e in PLAIN[:6]]
    return dict(torch_run(model)(MODEL, feed_of(model, encodings)))


def units(model: TorchModel) -> list[tuple[int, int]]:
    """Return the heads and neurons of each layer."""
    return [(p.n_heads, p.n_neurons) for p in family_of(model).layers(model.module)]
