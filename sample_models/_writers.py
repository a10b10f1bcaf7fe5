"""What teaches the samples that write text: a plain loop over generated text, from a seed, on the CPU."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError
from sample_models._training import SEED

if TYPE_CHECKING:
    import torch

    from converter.stage import Progress

POOL = 16
"""Batches are cut from so many batches' worth of texts, sorted by length: little of them is padding."""
NO_LOSS = -100
"""The label of what is not learned from."""
CARD = """---
license: apache-2.0
---
# {name}

{summary}

Made and trained by `sample_models/{name}.py` of plm-export on text that the same code generates: a small working model
to try the tool with, not one to use. On held-out generated text: {reached}.
"""


@dataclass(frozen=True)
class Course:
    """How long is learned, and how fast: AdamW, the rate raised over the first steps and then lowered to nothing."""

    steps: int
    batch: int
    rate: float
    warm_up: int = 150


def teach(model: Any, batches: Iterator[Mapping[str, "torch.Tensor"]], course: Course, progress: "Progress") -> None:
    """Train all parameters of `model` on `course.steps` batches, which hold the arguments of its forward pass."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=course.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, course))
    model.train()
    with progress.task("Training the sample", total=course.steps) as ticker:
        for _ in range(course.steps):
            loss = model(**next(batches)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            ticker.advance()
    model.eval()


def _rate(step: int, course: Course) -> float:
    if step < course.warm_up:
        return (step + 1) / course.warm_up
    share = (step - course.warm_up) / max(1, course.steps - course.warm_up)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def batches_of(rows: Sequence[Sequence[Any]], size: int, rng: Random) -> Iterator[list[Sequence[Any]]]:
    """Yield batches without end, of rows that are about as long."""
    while True:
        chosen = sorted(rng.sample(range(len(rows)), min(len(rows), POOL * size)), key=lambda i: len(rows[i][0]))
        batches = [chosen[i : i + size] for i in range(0, len(chosen), size)]
        rng.shuffle(batches)
        yield from ([rows[i] for i in batch] for batch in batches)


def padded(ids: Sequence[Sequence[int]], fill: int) -> "torch.Tensor":
    """Return int64 `[rows, longest]`, `fill` behind the shorter ones."""
    import torch

    width = max(map(len, ids))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in ids])


def seeded(make: Any) -> Any:
    """Return what `make` draws from the samples' seed; the caller's own random numbers go on as they were."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return make()


def refuse_unlearned(name: str, what: str, *, good: bool) -> None:
    """Raise `SourceError` for a sample that did not learn what it should: it is not kept."""
    if not good:
        raise SourceError(
            f"it reached {what}",
            where=f"sample:{name}",
            hint="it was not kept; please report this with the versions that `plm-export doctor` prints",
        )


def write_card(folder: Path, name: str, summary: str, reached: str) -> None:
    (folder / "README.md").write_text(CARD.format(name=name, summary=summary, reached=reached), encoding="utf-8")
