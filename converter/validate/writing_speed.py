"""How fast a package writes, beside its source: figures for people, never a gate."""

import time
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from converter.generate.graphs import DECODER, ENCODER
from converter.generate.timed import TimedText
from converter.graphs import MODEL, GraphSpec, Run
from converter.resources import fixed_threads
from converter.validate.speed import specs_by_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.reference import Probe

TOKENS = 16
WARM_UP = 2
REPEATS = 3
BUDGET_SECONDS = 2.5
"""Large models get fewer rounds, not more time."""


def writing_speed(source: "TorchModel", probes: "Sequence[Probe]", runs: Mapping[str, Run]) -> dict[str, Any]:
    """Time one text by name of who writes, batch 1, one thread, after a prompt as long as the median probe.

    Returns `tokens_per_second` behind the first token and `first_token_ms`, both by name, and of the package where
    the milliseconds of one text go.
    """
    lengths = sorted(len(p.encoding.inputs["input_ids"]) for p in probes)
    if not lengths:
        return {}
    tokens = min(TOKENS, max(1, source.max_length - 1))  # behind a start token, at least
    prompt = min(lengths[len(lengths) // 2], max(1, source.max_length - tokens))
    timed = {name: _Timed(run) for name, run in runs.items()}
    specs = specs_by_run(source, runs)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    parts: list[dict[str, float]] = []
    started = time.perf_counter()
    with fixed_threads(1):
        for i in range(REPEATS + 1):
            for name, run in timed.items():
                taken = _one(specs[name], run, prompt, tokens if i else min(tokens, WARM_UP))
                if i:  # the first one allocates
                    found[name].append(taken)
                    parts += [run.parts(*taken)] if name == "package" else []
            if i and time.perf_counter() - started > BUDGET_SECONDS:
                break
    return {
        "prompt_tokens": prompt,
        "tokens": tokens,
        "tokens_per_second": {n: round(tokens / median(rest for _, rest in t), 1) for n, t in found.items()},
        "first_token_ms": {n: round(1000 * median(first for first, _ in t), 3) for n, t in found.items()},
        "parts_ms": {n: round(1000 * median(p[n] for p in parts), 3) for n in parts[0]} if parts else {},
    }


def _one(specs: Mapping[str, GraphSpec], run: "_Timed", prompt: int, tokens: int) -> tuple[float, float]:
    """Return the seconds of the first token, and of `tokens` behind it."""
    TimedText(run, specs, 1, prompt)  # untimed: behind another's call its weights would have to be read first
    run.calls = []
    began = time.perf_counter()
    text = TimedText(run, specs, 1, prompt)
    first = time.perf_counter()
    for _ in range(tokens):
        text.step()
    return first - began, time.perf_counter() - first


class _Timed:
    """A run that keeps what each call took."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.calls: list[tuple[str, float]] = []

    def __call__(self, graph: str, feed: "Mapping[str, NDArray[Any]]") -> "Mapping[str, NDArray[Any]]":
        began = time.perf_counter()
        made = self._run(graph, feed)
        self.calls.append((graph, time.perf_counter() - began))
        return made

    def parts(self, first: float, rest: float) -> dict[str, float]:
        """Return the seconds of each part of one text."""
        encoder = [t for graph, t in self.calls if graph == ENCODER]
        decoder = [t for graph, t in self.calls if graph in (MODEL, DECODER)]
        made = {"the encoder": encoder[0]} if encoder else {}
        made |= {"the prompt" if not encoder else "the first token": decoder[0], "further tokens": sum(decoder[1:])}
        return made | {"choosing them": max(0.0, first + rest - sum(encoder) - sum(decoder))}
