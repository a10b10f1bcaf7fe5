"""Latency of package and source: a figure for people, never a gate."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

from converter.validate.reference import Run, feed_of, torch_run
from converter.validate.stability import spread

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Progress
    from converter.validate.reference import Probe

SAMPLE = 48
REPEATS = 3
BUDGET_SECONDS = 5.0
"""Large models get fewer texts, not more time."""
LEAST = 5
"""Texts that are timed whatever it takes."""
BUCKETS = (16, 32, 64, 128, 256, 512)


def measure_speed(source: "TorchModel", probes: "Sequence[Probe]", run: Run, progress: "Progress") -> dict[str, float]:
    """Return median milliseconds of one text, batch 1, one thread, at the texts' own lengths.

    `package` and `source` are over all texts of a sample; `package_16` and `source_16` over those of up to 16 tokens,
    `package_32` over those of 17 to 32, and so on. Source and package take turns, so that a busy machine slows both.
    """
    found: list[tuple[int, float, float]] = []
    with _one_thread(), progress.task("Timing", total=min(SAMPLE, len(probes))) as ticker:
        asked = torch_run(source)
        started = time.perf_counter()
        for probe in _mixed(spread(probes, SAMPLE)):
            feed = feed_of(source, [probe.encoding])
            times = _seconds(lambda feed=feed: run(feed)), _seconds(lambda feed=feed: asked(feed))  # type: ignore[misc]
            found.append((probe.encoding.length, *times))
            ticker.advance()
            if len(found) >= LEAST and time.perf_counter() - started > BUDGET_SECONDS:
                break
    made = _medians("", found)
    low = 0
    for high in BUCKETS:
        made |= _medians(f"_{high}", [f for f in found if low < f[0] <= high])
        low = high
    return made


def _medians(suffix: str, found: Sequence[tuple[int, float, float]]) -> dict[str, float]:
    if not found:
        return {}
    return {
        f"package{suffix}": round(1000 * median(f[1] for f in found), 3),
        f"source{suffix}": round(1000 * median(f[2] for f in found), 3),
    }


def _mixed(probes: "list[Probe]") -> "list[Probe]":
    """Order by stride over the lengths, so that a budget that runs out has seen short and long texts alike."""
    ordered = sorted(probes, key=lambda p: p.encoding.length)
    return [p for k in range(LEAST) for p in ordered[k::LEAST]]


def _seconds(call: Callable[[], object]) -> float:
    call()  # the first run of a length allocates
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
