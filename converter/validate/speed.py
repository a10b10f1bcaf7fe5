"""Latency of package and source: a figure for people, never a gate."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.graphs import GraphSpec, Run
from converter.reference import feed_of, torch_run
from converter.resources import fixed_threads
from converter.validate.stability import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.reference import Probe
    from converter.stage import Progress
    from converter.task import Task

SAMPLE = 48
"""Texts at most: no more are timed once all is `NARROW`."""
TURNS = (2, 4)
"""Calls of each on a text, at least and at most: no more once its two best are within `NARROW` of each other."""
SLOW_SECONDS = 0.1
"""A run on a text that takes so long is not repeated more than it must: what is allocated is little of it."""
NARROW = 0.05
"""How well a median, or how many times faster one is than another, is to be known: with 95 % confidence."""
BUDGET_SECONDS, SHORT_SECONDS = 5.0, 0.2
"""Large models get fewer texts, not more time: where the figure decides, and where it is for people."""
LEAST = 6
"""Texts that are timed whatever it takes."""
BUCKETS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Speed:
    """Median milliseconds by who ran and how long the text was, and how it was measured."""

    milliseconds: dict[str, float]
    facts: dict[str, Any]


def measure_speed(
    source: "TorchModel", probes: "Sequence[Probe]", run: Run, progress: "Progress", float32: Run | None = None
) -> Speed:
    """Time one text, batch 1, one thread, at the texts' own lengths: package, source, and the float32 file if given.

    `package` and `source` are over all texts of a sample; `package_16` and `source_16` over those of up to 16 tokens,
    `package_32` over those of 17 to 32, and so on. All take turns, so that a busy machine slows each of them.
    """
    runs = {"package": run, "source": torch_run(source), **({"float32": float32} if float32 is not None else {})}
    found = race(source, probes, runs, progress, SHORT_SECONDS)
    made: dict[str, float] = {}
    low = 0
    for high in (None, *BUCKETS):
        for name, times in found.items():
            chosen = [t for n, t in times if high is None or low < n <= high]
            # How the float32 file does is a figure for the whole; by length, package and source are drawn.
            if chosen and (high is None or name != "float32"):
                made[f"{name}_{high}" if high else name] = round(1000 * median(chosen), 3)
        low = high or 0
    return Speed(made, _how(found))


def time_lengths(
    source: "TorchModel", probes: "Sequence[Probe]", run: Run, lengths: Sequence[int], progress: "Progress"
) -> dict[int, float]:
    """Return what each fixed length that a file offers takes, in milliseconds: the best of some calls, one thread.

    A text is cut or repeated to fill it. Lengths that a large model has no time for are left out, from the longest.
    """
    made: dict[int, float] = {}
    if not probes:
        return made
    text = max(probes, key=lambda p: p.encoding.length).encoding
    started = time.perf_counter()
    with progress.task("Measuring each sequence length", total=len(lengths)) as ticker:
        for length in lengths:
            if time.perf_counter() - started > BUDGET_SECONDS:
                break
            feed = feed_of(source, [text.resized(length)])
            made[length] = round(1000 * _turns(source.task, {"": source.specs}, {"": run}, feed)[""], 3)
            ticker.advance()
    return made


def race(
    source: "TorchModel",
    probes: "Sequence[Probe]",
    runs: Mapping[str, Run],
    progress: "Progress",
    budget: float = BUDGET_SECONDS,
) -> dict[str, list[tuple[int, float]]]:
    """Return, by name, tokens and seconds of each text of a sample; on every text all take turns."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in runs}
    specs = specs_by_run(source, runs)
    with fixed_threads(1), progress.task("Timing", total=min(SAMPLE, len(probes))) as ticker:
        started = time.perf_counter()
        for i, probe in enumerate(_mixed(spread(probes, SAMPLE))):
            feed = feed_of(source, [probe.encoding])
            for name, seconds in _turns(source.task, specs, runs, feed).items():
                found[name].append((probe.encoding.length, seconds))
            ticker.advance()
            if i + 1 >= LEAST and (_known(found) or time.perf_counter() - started > budget):
                break
    return found


def _known(found: Mapping[str, Sequence[tuple[int, float]]]) -> bool:
    """Tell whether more texts would hardly change how many times faster one is than another."""
    first, *others = ([math.log(t) for _, t in times] for times in found.values())
    if not others:
        return len(first) >= 2 * LEAST
    return all(_half_width([a - b for a, b in zip(first, other, strict=True)]) <= NARROW for other in others)


def _half_width(values: Sequence[float]) -> float:
    return float(1.96 * np.std(values, ddof=1) / math.sqrt(len(values)))


def _turns(
    task: "Task",
    specs: Mapping[str, Mapping[str, GraphSpec]],
    runs: Mapping[str, Run],
    feed: "Mapping[str, NDArray[np.int64]]",
) -> dict[str, float]:
    """Return the best of some calls of each, one right behind the other, as a model is called again and again.

    Behind a call of another model its weights would have to be read from memory first, which takes a small one as long
    as its products. The first call also allocates what its length needs, and is hardly ever the best.
    """
    return {name: min(_repeated(task, specs[name], run, feed)) for name, run in runs.items()}


def _repeated(
    task: "Task", specs: Mapping[str, GraphSpec], run: Run, feed: "Mapping[str, NDArray[np.int64]]"
) -> list[float]:
    taken: list[float] = []
    while len(taken) < TURNS[0] or (len(taken) < TURNS[1] and not (_steady(taken) or min(taken) > SLOW_SECONDS)):
        started = time.perf_counter()
        task.answer(specs, run, feed)
        taken.append(time.perf_counter() - started)
    return taken


def _steady(times: Sequence[float]) -> bool:
    best, second = sorted(times)[:2]
    return second <= best * (1 + NARROW)


def specs_by_run(source: "TorchModel", runs: Mapping[str, Run]) -> dict[str, Mapping[str, GraphSpec]]:
    """Return the graphs of each run by its name: those of `source` as a package sees it, and of its own module.

    A package with fewer layers or heads than its source has a smaller cache.
    """
    from converter.surgery.resize import with_own_cache

    return {name: (with_own_cache(source) if name == "source" else source).specs for name in runs}


def _how(found: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, Any]:
    lengths = sorted(n for n, _ in next(iter(found.values())))
    if not lengths:
        return {}
    ends = {name: sorted(t for _, t in times) for name, times in found.items()}
    return {
        "threads": 1,
        "batch": 1,
        "texts": len(lengths),
        "tokens_p50": lengths[len(lengths) // 2],
        "tokens_p90": lengths[len(lengths) * 9 // 10],
        **{f"{name}_ms_p90": round(1000 * t[len(t) * 9 // 10], 3) for name, t in ends.items()},
    }


def not_worth_it(size_ratio: float, milliseconds: Mapping[str, float], per: str = "text") -> str | None:
    """Return a sentence where a package is neither smaller nor faster than float32; None where it is worth having.

    `size_ratio` is its size over the source's float32 weights. The float32 file in the same runtime is what it has to
    beat; without one, the source.
    """
    rival = "float32" if "float32" in milliseconds else "source"
    if size_ratio < 1 or "package" not in milliseconds or milliseconds["package"] < milliseconds[rival]:
        return None
    return (
        f"not worth it: neither smaller ({size_ratio:.2f} of the float32 weights) nor faster "
        f"({milliseconds['package']:.2f} ms, {rival} {milliseconds[rival]:.2f} ms per {per}) than float32"
    )


def _mixed(probes: "list[Probe]") -> "list[Probe]":
    """Order by stride over the lengths, so that a budget that runs out has seen short and long texts alike."""
    ordered = sorted(probes, key=lambda p: p.encoding.length)
    return [p for k in range(LEAST) for p in ordered[k::LEAST]]
