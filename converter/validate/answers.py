"""What a package answers to the probes, made safe to judge: nothing that is not a number passes for one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.examples import Example
from converter.graphs import GraphSpec, Run, runs_side_by_side
from converter.reference import Probe, feed_of, own_outputs
from converter.resources import ANSWERS_AHEAD, made_in_threads
from converter.task import Judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Progress
    from converter.task import Task


class RunFailed(Exception):
    """The runtime refused a text; the message names it."""


@dataclass(frozen=True)
class Answers:
    """Answers in probe order. Where one is unsound, zeros stand in for it and `faults` says why."""

    judged: tuple[Judged, ...]
    faults: Mapping[int, str]

    def fault(self) -> str | None:
        """Return the first fault with its text, and how many more there are."""
        if not self.faults:
            return None
        first = min(self.faults)
        more = f" (and {len(self.faults) - 1} more texts)" if len(self.faults) > 1 else ""
        return f"{self.faults[first]} for the text {shorten(self.judged[first].example.text)!r}{more}"


def ask(
    model: "TorchModel",
    probes: Sequence[Probe],
    run: Run,
    progress: "Progress",
    title: str,
    wanted: Sequence[Judged] = (),
) -> Answers:
    """Run every probe alone at its natural length.

    With `wanted`, outputs must also have its shapes; outputs that `wanted` does not have are dropped.

    Raises:
        RunFailed: the runtime raised.

    """
    made, faults, specs = [], {}, model.specs

    def answered(probe: Probe) -> "dict[str, NDArray[np.float32]]":
        feed = feed_of(model, [probe.encoding])
        found = run_safely(model.task, specs, run, feed, probe.example, probe.encoding.length)
        return own_outputs(found, 0, probe.encoding, model.task, specs)

    with progress.task(title, total=len(probes)) as ticker:
        answers = made_in_threads(answered, probes, alone=not runs_side_by_side(run), ahead=ANSWERS_AHEAD)
        for i, (probe, own) in enumerate(zip(probes, answers, strict=True)):
            outputs, fault = _sound(own, wanted[i].outputs if wanted else own)
            if fault:
                faults[i] = fault
            made.append(Judged(probe.example, probe.encoding, outputs))
            ticker.advance()
    return Answers(tuple(made), faults)


def shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def run_safely(
    task: "Task",
    specs: Mapping[str, GraphSpec],
    run: Run,
    feed: "Mapping[str, NDArray[np.int64]]",
    example: Example,
    length: int,
) -> "Mapping[str, NDArray[np.float32]]":
    """Run one batch through the graphs.

    Raises:
        RunFailed: the runtime raised; its classes of error are its own, so all are caught.

    """
    try:
        return task.answer(specs, run, feed)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunFailed(f"it does not run on {shorten(example.text)!r} ({length} tokens): {reason}") from error


def _sound(
    found: "Mapping[str, NDArray[np.float32]]", wanted: "Mapping[str, NDArray[np.float32]]"
) -> "tuple[dict[str, NDArray[np.float32]], str | None]":
    """Return outputs of the wanted shapes without NaN, and what had to be replaced for that."""
    made, fault = {}, None
    for name, like in wanted.items():
        if name not in found:
            continue  # the check of inputs and outputs by name says so
        value = np.asarray(found[name])
        if value.shape != like.shape:
            fault = fault or f"{name} has the shape {value.shape}, wanted {like.shape},"
            value = np.zeros_like(like)
        elif not np.isfinite(value).all():
            fault = fault or f"{name} holds NaN or infinite values"
            value = np.zeros_like(like)
        made[name] = value
    return made, fault
