"""The source's own answers, taken before anything is changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.examples import Encoding, Example, pad_batch
from converter.task import Judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Progress

Run = Callable[[Mapping[str, "NDArray[np.int64]"]], Mapping[str, "NDArray[np.float32]"]]


@dataclass(frozen=True)
class Probe:
    """An example and its token ids."""

    example: Example
    encoding: Encoding


@dataclass(frozen=True)
class Reference:
    """What the source answers to each probe, at its natural length, one at a time."""

    judged: tuple[Judged, ...]
    decisions: tuple[Any, ...]
    output_range: dict[str, float]
    """Largest minus smallest value of each output over all probes: errors are told relative to it."""
    metric: dict[str, float]
    chance: float | None
    """What a model that ignores its input would score; None where nothing is labelled."""

    @property
    def probes(self) -> tuple[Probe, ...]:
        return tuple(Probe(j.example, j.encoding) for j in self.judged)


def torch_run(model: "TorchModel") -> Run:
    """Return a function that runs `model` on int64 batches `[batch, length]`."""
    import torch

    graph = model.graph().eval()

    def run(feed: Mapping[str, "NDArray[np.int64]"]) -> dict[str, "NDArray[np.float32]"]:
        with torch.inference_mode():
            made = graph(**{name: torch.from_numpy(rows) for name, rows in feed.items()})
        return {name: value.numpy() for name, value in made.items()}

    return run


def encode_probes(model: "TorchModel", examples: Sequence[Example]) -> tuple[Probe, ...]:
    return tuple(Probe(e, model.task.encode(model.tokenizer, e, model.max_length)) for e in examples)


def judge(
    model: "TorchModel", probes: Sequence[Probe], run: Run, progress: "Progress", title: str
) -> tuple[Judged, ...]:
    """Run every probe alone at its natural length."""
    made = []
    with progress.task(title, total=len(probes)) as ticker:
        for probe in probes:
            outputs = run(pad_batch([probe.encoding], model.pad))
            made.append(Judged(probe.example, probe.encoding, cut_outputs(outputs, 0, probe.encoding.length, model)))
            ticker.advance()
    return tuple(made)


def cut_outputs(
    outputs: Mapping[str, "NDArray[np.float32]"], row: int, length: int, model: "TorchModel"
) -> dict[str, "NDArray[np.float32]"]:
    """Take one example out of a batch, without its padding."""
    return {
        name: value[row, :length] if name in model.task.token_outputs else value[row] for name, value in outputs.items()
    }


def capture_reference(model: "TorchModel", examples: Sequence[Example], progress: "Progress") -> Reference:
    """Run the source on every probe and keep what it answers."""
    judged = judge(model, encode_probes(model, examples), torch_run(model), progress, "Asking the source")
    labelled = [e for e in examples if e.label is not None]
    return Reference(
        judged=judged,
        decisions=tuple(model.task.decisions(judged)),
        output_range={name: _range([j.outputs[name] for j in judged]) for name in judged[0].outputs},
        metric=model.task.metric(judged),
        chance=model.task.chance(labelled) if labelled else None,
    )


def _range(values: Sequence["NDArray[np.float32]"]) -> float:
    return float(max(v.max() for v in values) - min(v.min() for v in values))
