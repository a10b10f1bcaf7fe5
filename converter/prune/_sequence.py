"""Linear layers from the input on: what each reads in the model as it is now, and what the whole model makes there."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from converter.artifact import TorchModel
from converter.errors import SourceError
from converter.examples import Encoding
from converter.graphs import MODEL
from converter.reference import feed_of
from converter.structured.streams import Reached, Stream

if TYPE_CHECKING:
    from converter.stage import Ticker

Feed = dict[str, torch.Tensor]
LAYER = re.compile(r"\.(\d+)\.")


@dataclass
class Sums:
    """X'X and X'Y over tokens, in float64: inputs X as they are now `[tokens, in]`, Y what the whole model makes."""

    n_in: int
    n_out: int
    tokens: int = 0
    xx: torch.Tensor = field(init=False)
    xy: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.xx = torch.zeros(self.n_in, self.n_in, dtype=torch.float64)
        self.xy = torch.zeros(self.n_in, self.n_out, dtype=torch.float64)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        # Within a batch float32 is exact enough; over all of the text it is not. Adding converts, without a copy.
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.tokens += len(x)


def real_rows(value: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the rows of tokens, `[tokens, width]`, without padding."""
    if value.shape[:2] == real.shape:
        return value[real]
    # A pooler or a position table sees no tokens: all of its rows count.
    return value.reshape(-1, value.shape[-1])


def in_groups(
    model: TorchModel, linears: Mapping[str, torch.nn.Linear], batch: Sequence[Encoding]
) -> list[dict[str, int]]:
    """Return the names of `linears` as they are called, those of a layer together, with how often each is called."""
    calls: dict[str, int] = {}
    with ExitStack() as hooks, torch.inference_mode():
        for name, linear in linears.items():

            def count(_: torch.nn.Module, __: Any, name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1

            hooks.callback(linear.register_forward_pre_hook(count).remove)
        model.graphs()[MODEL](**_feed(model, batch))
    groups: list[tuple[str, dict[str, int]]] = []
    for name, n_calls in calls.items():
        found = LAYER.search(name)
        layer = found[1] if found else name
        if not groups or groups[-1][0] != layer:
            groups.append((layer, {}))
        groups[-1][1][name] = n_calls
    return [members for _, members in groups]


class TextRuns:
    """A model over all text, group after group; where its family is known, layers that are done are not run again."""

    def __init__(self, model: TorchModel, batches: Sequence[Sequence[Encoding]]) -> None:
        self.model, self.batches = model, batches
        self._stream = _stream_of(model, batches)
        self._at: int | None = None

    def to(self, linears: Mapping[str, torch.nn.Linear]) -> None:
        """Go on to a group: the layer of the one before is done."""
        if self._stream is None:
            return
        inside = {id(m) for m in linears.values()}
        parts = self._stream.parts
        layer = next((i for i, p in enumerate(parts) if inside & {id(m) for m in p.layer.modules()}), None)
        if self._at is not None and layer != self._at:
            self._stream.finish(self._at)
        self._at = layer

    def feed(self, number: int) -> Feed:
        return _feed(self.model, self.batches[number]) if self._stream is None else self._stream.feeds[number]

    def run(self, number: int) -> None:
        """Run batch `number` until a hook raises `Reached`."""
        if self._stream is not None:
            self._stream.run(number)
            return
        with suppress(Reached), torch.inference_mode():
            self.model.graphs()[MODEL](**self.feed(number))


def _stream_of(model: TorchModel, batches: Sequence[Sequence[Encoding]]) -> Stream | None:
    try:
        return Stream(model, batches)
    except SourceError:  # no family file: every run begins at the text
        return None


def sums_of_group(now: TextRuns, whole: TextRuns, group: Mapping[str, int], ticker: "Ticker") -> dict[str, Sums]:
    """Return the sums of each linear of `group` over all text; of two models of one shape."""
    mine, theirs = linears_of(now.model, group), linears_of(whole.model, group)
    made = {n: Sums(m.in_features, m.out_features) for n, m in mine.items()}
    now.to(mine)
    whole.to(theirs)
    for number in range(len(now.batches)):
        outputs = _watched(whole, theirs, group, number, given=False)
        inputs = _watched(now, mine, group, number, given=True)
        for name, sums in made.items():
            for x, y in zip(inputs[name], outputs[name], strict=True):
                sums.add(x, y)
        ticker.advance()
    return made


def _watched(
    runs: TextRuns, linears: Mapping[str, torch.nn.Linear], group: Mapping[str, int], number: int, *, given: bool
) -> dict[str, list[torch.Tensor]]:
    """Return what each linear reads (`given`) or makes without its bias, a list of calls; nothing later is computed."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in linears}
    real = runs.feed(number)["attention_mask"].bool()

    def watch(name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], made: torch.Tensor) -> None:
            value = args[0] if given else made if module.bias is None else made - module.bias
            seen[name].append(real_rows(value, real))
            if all(len(seen[n]) == n_calls for n, n_calls in group.items()):
                raise Reached

        return hook

    with ExitStack() as hooks:
        for name, linear in linears.items():
            hooks.callback(linear.register_forward_hook(watch(name)).remove)
        runs.run(number)
    return seen


def linears_of(model: TorchModel, names: Mapping[str, int]) -> dict[str, torch.nn.Linear]:
    """Return some linear layers of the encoder by their names."""
    base = model.module.base_model
    assert isinstance(base, torch.nn.Module)
    return {n: m for n, m in base.named_modules() if n in names and isinstance(m, torch.nn.Linear)}


def _feed(model: TorchModel, batch: Sequence[Encoding]) -> Feed:
    return {n: torch.from_numpy(rows) for n, rows in feed_of(model, batch).items()}
