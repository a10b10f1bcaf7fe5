"""A model run over text layer after layer: what flows into and out of each sublayer, padding left out.

Works for every family: a layer that is done answers from memory, so a run costs one layer and the embeddings.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from converter.artifact import TorchModel
from converter.examples import Encoding
from converter.graphs import MODEL
from converter.reference import feed_of
from converter.surgery.resize import family_of

if TYPE_CHECKING:
    from converter.family import LayerParts

Kind = Literal["attention", "ffn"]


@dataclass(frozen=True)
class Sublayer:
    """One sublayer: the heads or the neurons of one layer."""

    layer: int
    kind: Kind


@dataclass(frozen=True)
class SublayerActivations:
    """One sublayer over one batch, its own tokens alone: rows of all texts of the batch, one after the other."""

    read: torch.Tensor | None
    """What queries, keys and values or the neurons are made of, `[tokens, hidden]`; None where there are none."""
    given: torch.Tensor
    """What the output linear takes, `[tokens, heads x head_dim]` or `[tokens, neurons]`."""
    total: torch.Tensor
    """Output and residual, `[tokens, hidden]`: what is handed on."""


class Reached(Exception):
    """Raised by a hook where nothing later is wanted of a run."""


def sublayers_of(parts: "Sequence[LayerParts]") -> list[Sublayer]:
    """Return all sublayers, in the order in which they are computed."""
    kinds: tuple[Kind, ...] = ("attention", "ffn")
    return [Sublayer(layer, kind) for layer in range(len(parts)) for kind in kinds]


def linear_of(parts: "Sequence[LayerParts]", sublayer: Sublayer) -> torch.nn.Linear:
    """Return the linear whose inputs are the units of `sublayer`."""
    part = parts[sublayer.layer]
    return part.attention_output if sublayer.kind == "attention" else part.ffn_output


class Stream:
    """One model over batches of text; `finish` a layer and later runs start behind it."""

    def __init__(self, model: TorchModel, batches: Sequence[Sequence[Encoding]]) -> None:
        self.model = model
        self.family = family_of(model)
        self.feeds = [{n: torch.from_numpy(r) for n, r in feed_of(model, batch).items()} for batch in batches]
        self._graph = model.graphs()[MODEL].eval()
        self._kept: list[Any] = [None] * len(self.feeds)
        self._done = 0
        # One layer in several places is not done before the last of them.
        self._shared = self.family.shares_layers or len({id(p.layer) for p in self.parts}) < len(self.parts)

    @property
    def parts(self) -> "Sequence[LayerParts]":
        return self.family.layers(self.model.module)

    def finish(self, layer: int) -> None:
        """Run all text through `layer`, and keep what it answers."""
        if self._shared:
            return
        for number in range(len(self.feeds)):
            self._kept[number] = self._run(number, layer)
        self._done = layer + 1

    def watch(self, number: int, sublayers: Sequence[Sublayer]) -> dict[Sublayer, list[SublayerActivations]]:
        """Return the activations of `sublayers` over batch `number`: one entry a pass (shared layers have several)."""
        parts, real = self.parts, self.feeds[number]["attention_mask"].bool()
        seen: dict[Sublayer, list[SublayerActivations]] = {sublayer: [] for sublayer in sublayers}
        with ExitStack() as hooks:
            for layer in {s.layer for s in sublayers}:
                _watch_layer(parts[layer], layer, seen, real, hooks, norm_first=self.family.norm_first)
            self._run(number, max(s.layer for s in sublayers))
        return seen

    def read_by(self, number: int, linear: torch.nn.Linear) -> torch.Tensor:
        """Return what a linear behind the layers reads of batch `number`: `[tokens, hidden]`, or `[texts, hidden]`."""
        read: list[torch.Tensor] = []

        def reading(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
            read.append(args[0])
            raise Reached

        handle = linear.register_forward_pre_hook(reading)
        try:
            self._run(number, None)
        finally:
            handle.remove()
        return read[0][self.feeds[number]["attention_mask"].bool()] if read[0].ndim > 2 else read[0]

    def run(self, number: int) -> None:
        """Run batch `number` from behind the layers that are done, until a hook raises `Reached`."""
        self._run(number, None)

    def _run(self, number: int, until: int | None) -> Any:
        """Return what layer `until` answers to batch `number`; nothing after it is computed."""
        parts = self.parts
        answer: list[Any] = []

        def reached(_: torch.nn.Module, __: Any, output: Any) -> None:
            answer.append(output)
            raise Reached

        with ExitStack() as hooks, torch.inference_mode():
            if not self._shared:
                if until is not None:
                    hooks.callback(parts[until].layer.register_forward_hook(reached).remove)
                hooks.enter_context(_answering(parts[: self._done], self._kept[number]))
            try:
                self._graph(**self.feeds[number])
            except Reached:
                return answer[0] if answer else None
        return None


@contextmanager
def _answering(parts: "Sequence[LayerParts]", answer: Any) -> Iterator[None]:
    """Let layers answer what they answered before."""
    own = [vars(part.layer).get("forward") for part in parts]  # accelerate's, where weights are on disk
    for part in parts:
        part.layer.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        for part, forward in zip(parts, own, strict=True):
            del part.layer.forward
            if forward is not None:
                part.layer.forward = forward


def _watch_layer(
    part: "LayerParts",
    layer: int,
    seen: dict[Sublayer, list[SublayerActivations]],
    real: torch.Tensor,
    hooks: ExitStack,
    *,
    norm_first: bool,
) -> None:
    stream: dict[Kind, torch.Tensor] = {}
    read: dict[Kind, torch.Tensor] = {}

    def entered(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream["attention"] = args[0] if args else kwargs["hidden_states"]
        read.clear()

    def reading(kind: Kind) -> Callable[..., None]:
        def hook(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
            read[kind] = args[0]
            if kind == "ffn" and not norm_first:
                stream["ffn"] = args[0]

        return hook

    def left(kind: Kind) -> Callable[..., None]:
        def hook(_: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            total = stream[kind] + output
            if kind == "attention" and norm_first:
                stream["ffn"] = total
            if Sublayer(layer, kind) in seen:
                given = read[kind][real] if kind in read else None
                seen[Sublayer(layer, kind)].append(SublayerActivations(given, args[0][real], total[real]))

        return hook

    hooks.callback(part.layer.register_forward_pre_hook(entered, with_kwargs=True).remove)
    hooks.callback(part.readers[0].register_forward_pre_hook(reading("attention")).remove)
    hooks.callback(part.ffn_input.register_forward_pre_hook(reading("ffn")).remove)
    hooks.callback(part.attention_output.register_forward_hook(left("attention")).remove)
    hooks.callback(part.ffn_output.register_forward_hook(left("ffn")).remove)


def head_of(stream: Stream) -> torch.nn.Linear | None:
    """Return the first linear behind the last layer; None where nothing but an average follows (embeddings)."""
    parts, module = stream.parts, stream.model.module
    inside = {id(m) for part in parts for m in part.layer.modules()}
    reached: list[torch.nn.Linear] = []
    with ExitStack() as hooks, torch.inference_mode():
        # Where all layers are one it is reached many times: the last counts.
        hooks.callback(parts[-1].layer.register_forward_hook(lambda *_: reached.clear()).remove)
        for linear in (m for m in module.modules() if isinstance(m, torch.nn.Linear) and id(m) not in inside):
            hooks.callback(linear.register_forward_pre_hook(lambda m, _: reached.append(m)).remove)
        stream.model.graphs()[MODEL].eval()(**stream.feeds[0])
    width = linear_of(parts, sublayers_of(parts)[-1]).out_features
    # A decoder that is the embeddings, too, is not the head's own.
    users = [
        m for m in module.modules() if reached and any(p is reached[0].weight for p in m.parameters(recurse=False))
    ]
    return reached[0] if len(users) == 1 and reached[0].in_features == width else None


class TeacherSums:
    """What each sublayer of the whole model reads and hands on, kept on disk: as large as the text times all layers."""

    def __init__(self, folder: Path, stride: int = 1) -> None:
        self.folder, self.stride = folder, stride
        folder.mkdir(parents=True, exist_ok=True)

    def thinned(self, stride: int) -> "TeacherSums":
        """Return the sums over every n-th batch alone."""
        return TeacherSums(self.folder, self.stride * stride)

    def take(self, stream: Stream, tick: Callable[[], None]) -> None:
        """Run the whole model once over all text."""
        head = head_of(stream)
        sublayers = sublayers_of(stream.parts)
        for number in range(len(stream.feeds)):
            for sublayer, passes in stream.watch(number, sublayers).items():
                for i, seen in enumerate(passes):
                    np.save(self._path(number, sublayer, i), seen.total.numpy())
                    if seen.read is not None:
                        # Half the disk: what is read has been normalized.
                        np.save(self._path(number, sublayer, i, "read"), seen.read.half().numpy())
            if head is not None:
                np.save(self._head_path(number), stream.read_by(number, head).half().numpy())
            tick()

    def of(self, number: int, sublayer: Sublayer, i: int) -> torch.Tensor:
        """Return what was handed on, `[tokens, hidden]`, of pass `i` over batch `number`."""
        return torch.from_numpy(np.load(self._path(number, sublayer, i), allow_pickle=False))

    def read_of(self, number: int, sublayer: Sublayer, i: int) -> torch.Tensor:
        """Return what was read, `[tokens, hidden]` in half precision, of pass `i` over batch `number`."""
        return torch.from_numpy(np.load(self._path(number, sublayer, i, "read"), allow_pickle=False))

    def read_by_head(self, number: int) -> torch.Tensor:
        """Return what the head read of batch `number`, as `Stream.read_by` does, in half precision."""
        return torch.from_numpy(np.load(self._head_path(number), allow_pickle=False))

    def _head_path(self, number: int) -> Path:
        return self.folder / f"{number * self.stride}-head.npy"

    def _path(self, number: int, sublayer: Sublayer, i: int, what: str = "total") -> Path:
        return self.folder / f"{number * self.stride}-{sublayer.layer}-{sublayer.kind}-{i}-{what}.npy"
