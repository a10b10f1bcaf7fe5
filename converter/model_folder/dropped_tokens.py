"""Encoders whose layers drop the tokens that matter least, between their attention and their FFN.

How many tokens are left of a text depends on its own length alone: `ceil(share * length)` of each layer that drops. In
a batch the texts are as wide as the longest one's rest, and what is too much of a shorter one is masked, so that no
answer depends on neighbours or padding. Under `masking`, as in training, nothing is taken out: dropped tokens are
masked, states keep their places, and answers are the same.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import torch
import torch.nn.functional as F

from converter.model_folder.replacement_map import ascending
from converter.model_folder.token_shares import WHOLE, Score, left_of
from converter.registry import families

if TYPE_CHECKING:
    from converter.family import Family, LayerSteps

FIRST = 1e6
"""The score of the first token, which classifiers read: it is never dropped."""
UNSEEN = -3e4
"""Added to the scores of what is masked: finite in half precision too, and its exponential is zero."""


def _of_any_size(kept: Any, width: Any) -> Any:
    """Return the count `kept` of `width` tokens; while a graph of any length is traced, as a number read from a tensor.

    A count that is computed from the length is traced with the value that it has for the text at hand. Where that is 1,
    and with few tokens or a small share it soon is, a graph of any length would become one of that length.
    """
    if not isinstance(kept, torch.SymInt):
        return kept
    made: Any = torch
    read = made.full((), kept, dtype=torch.int64).item()
    made._check(read >= 1)  # noqa: SLF001 - documented, and the only way to say it
    made._check(read <= width)  # noqa: SLF001
    return read


@dataclass
class Tokens:
    """Which tokens of a batch are left, while it goes through the layers."""

    own: torch.Tensor
    """Bool `[batch, width]`: positions that hold a token of the text."""
    count: torch.Tensor
    """int32 `[batch]`: how many those are."""
    taken_out: bool
    """Dropped tokens are taken out; False: they are masked and keep their places."""
    restores: bool
    places: "list[tuple[torch.Tensor, torch.Tensor]]" = field(default_factory=list)
    """For each layer that drops: where each token's last state is, of those left and those that there were."""

    @classmethod
    def of(cls, mask: torch.Tensor | None, hidden: torch.Tensor, *, taken_out: bool, restores: bool) -> "Tokens":
        """Read the mask that transformers gives its layers: None, bool, or what is added to scores."""
        if mask is None:
            own = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        else:
            row = mask[:, 0, 0, :]
            own = row if row.dtype == torch.bool else row == 0
            own = own.expand(hidden.shape[:2])
        return cls(own, own.sum(dim=1, dtype=torch.int32), taken_out, restores)

    def mask(self, like: torch.Tensor | None) -> torch.Tensor | None:
        """Return the mask for the next layers, of the kind that the first was."""
        if like is None and self.taken_out:
            return None  # all texts are of one length, and stay so
        own = self.own[:, None, None, :]
        if like is not None and like.dtype == torch.bool:
            return own
        return added(own, torch.float32 if like is None else like.dtype)

    def drop(self, states: torch.Tensor, score: torch.Tensor, share: int) -> torch.Tensor:
        """Keep `share` thousandths of each text's tokens, those of the highest `score` `[batch, width]`."""
        batch, width = states.shape[:2]
        kept = _of_any_size(left_of(width, share), width)
        self.count = torch.div(self.count * share + (WHOLE - 1), WHOLE, rounding_mode="floor").to(torch.int32)
        order = torch.topk(score, width if self.restores and self.taken_out else kept, dim=1).indices
        valid = torch.arange(kept, device=states.device, dtype=torch.int32)[None, :] < self.count[:, None]
        if not self.taken_out:
            self.own = torch.zeros_like(self.own).scatter(1, order, valid)
            return states
        if self.restores:
            # The order of an order is where each token went.
            went = torch.topk(-order.to(score.dtype), width, dim=1).indices
            stayed = torch.arange(width, device=states.device)[None, :] + kept
            self.places.append((torch.where(went < self.count[:, None], went, stayed), states))
        self.own = valid.expand(batch, kept)
        return rows_of(states, order[:, :kept])

    def restored(self, states: torch.Tensor) -> torch.Tensor:
        """Return the last state of every token `[batch, length, width]`, of dropped ones that which they had then."""
        for place, before in reversed(self.places):
            states = rows_of(torch.cat([states, before], dim=1), place)
        return states


def rows_of(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return `[batch, kept, width]`: of each text the rows `places` `[batch, kept]`.

    As one look-up of whole rows: `gather` picks every number by itself.
    """
    batch, length, width = states.shape
    first = torch.arange(batch, device=states.device)[:, None] * length
    return F.embedding(places + first, states.reshape(batch * length, width))


def added(own: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to scores: 0 where `own`, enough to hide it elsewhere."""
    return (own.to(dtype) - 1.0) * -UNSEEN


class DroppingLayer:
    """Stands before the class of a transformers layer: attention, then fewer tokens, then the FFN."""

    share: int
    by: str
    family: "Family"
    training: bool

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *, tokens: Tokens
    ) -> torch.Tensor:
        steps = self.family.steps(self)  # type: ignore[arg-type]
        states, score = self._attended(steps, hidden_states, attention_mask, tokens.own)
        if not tokens.taken_out:  # those that an earlier layer dropped keep the state that they had there
            states = torch.where(tokens.own[:, :, None], states, hidden_states)
        states = tokens.drop(states, score, self.share)
        made = steps.fed(states)
        return made if tokens.taken_out else torch.where(tokens.own[:, :, None], made, states)

    def _attended(
        self, steps: "LayerSteps", hidden: torch.Tensor, mask: torch.Tensor | None, own: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the FFN reads, and the score of each token."""
        shape = (*hidden.shape[:-1], -1, steps.head_dim)
        query, key, value = (part(hidden).view(shape).transpose(1, 2) for part in (steps.query, steps.key, steps.value))
        weights = torch.matmul(query, key.transpose(2, 3)) * steps.head_dim**-0.5
        bias = added(own[:, None, None, :], weights.dtype) if mask is None or mask.dtype == torch.bool else mask
        weights = F.softmax(weights + bias, dim=-1)
        score = self._score(weights, value, own)
        weights = F.dropout(weights, p=steps.dropout, training=self.training)
        context = torch.matmul(weights, value).transpose(1, 2).contiguous()
        return steps.attended(context.reshape(*hidden.shape[:-1], -1), hidden), score

    def _score(self, weights: torch.Tensor, value: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Return `[batch, width]`: what each token is attended with, -1 where there is none."""
        weights, value = weights.detach(), value.detach()
        if self.by == "first":
            score = weights[:, :, 0, :].sum(dim=1)
        else:
            received = (weights * own[:, None, :, None].to(weights.dtype)).sum(dim=2)
            score = (received * value.square().sum(dim=-1).sqrt() if self.by == "values" else received).sum(dim=1)
        first = torch.arange(own.shape[1], device=own.device) == 0
        return torch.where(first, FIRST, torch.where(own, score, -1.0))


class TokenDropping:
    """Stands before the class of the transformers module that runs the layers: some of them drop tokens."""

    kind = "token-dropping"
    weightless = True  # no weight tells what it does
    layer: torch.nn.ModuleList
    restores: bool
    masks = False
    """Dropped tokens are masked and keep their places; see `masking`."""
    left: tuple[torch.Tensor, ...] = ()
    """Under `masking`: of the last forward, the tokens that each layer left, bool `[batch, length]`."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> Mapping[str, Any]:
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        tokens = Tokens.of(attention_mask, hidden_states, taken_out=not self.masks, restores=self.restores)
        mask, dropped, left = attention_mask, False, []
        for layer in self.layer:
            if isinstance(layer, DroppingLayer):
                hidden_states = layer(hidden_states, mask, tokens=tokens)
                mask, dropped = tokens.mask(attention_mask), True
                left.append(tokens.own)
                continue
            made = layer(hidden_states, mask)
            masked = dropped and not tokens.taken_out
            hidden_states = torch.where(tokens.own[:, :, None], made, hidden_states) if masked else made
            left.append(tokens.own)
        self.left = tuple(left) if self.masks else ()
        made_of: Any = BaseModelOutputWithPastAndCrossAttentions
        output: Mapping[str, Any] = made_of(last_hidden_state=tokens.restored(hidden_states))
        return output

    def spec(self) -> dict[str, Any]:
        dropping = {i: layer for i, layer in enumerate(self.layer) if isinstance(layer, DroppingLayer)}
        scores = [layer.by for layer in dropping.values()]
        return {
            "kind": self.kind,
            "layers": list(dropping),
            "keep": [layer.share for layer in dropping.values()],
            "score": scores[0] if scores else "",
            "restores": self.restores,
        }


@contextmanager
def masking(*models: torch.nn.Module) -> Iterator[None]:
    """Have the tokens that `models` drop masked instead of taken out, so that each state keeps its place."""
    loops = [part for model in models for part in model.modules() if isinstance(part, TokenDropping)]
    for loop in loops:
        loop.masks = True
    try:
        yield
    finally:
        for loop in loops:
            loop.masks, loop.left = False, ()


def left_by_layer(model: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """Return which tokens each layer left in the last forward under `masking`; empty where no layer drops any.

    Bool `[batch, length]` each. The state of a token that is not left is that of an earlier layer, or half a layer's.
    """
    found = [part.left for part in model.modules() if isinstance(part, TokenDropping)]
    return found[0] if found else ()


def settle(model: torch.nn.Module) -> None:
    """Give what runs the layers its own class back where none of them drops tokens any more."""
    for part in model.modules():
        if isinstance(part, TokenDropping) and not part.spec()["layers"]:
            part.__class__ = type(part).__bases__[1]


def let_drop(model: torch.nn.Module, loop: Any, spec: Mapping[str, Any]) -> None:
    """Let layers of `loop`, the module of `model` that runs them, drop tokens; weights keep their names.

    Raises:
        ValueError: the spec does not fit the model.

    """
    family = families().get(str(model.config.model_type))  # type: ignore[union-attr]
    layers, shares, restores = ascending(spec["layers"]), spec["keep"], spec["restores"]
    known = spec["score"] in get_args(Score) and isinstance(restores, bool)
    if family is None or not family.layer_loop or not known:
        raise ValueError("it does not say which layers drop how many tokens")
    fits = isinstance(shares, list) and len(layers) == len(shares) and layers[-1] < len(loop.layer)
    if not fits or not all(type(share) is int and 0 < share <= WHOLE for share in shares):
        raise ValueError(f"layers {layers} of {len(loop.layer)} are to keep {shares} thousandths of their tokens")
    _swap(loop, TokenDropping)
    loop.restores = restores
    for i, share in zip(layers, shares, strict=True):
        layer = loop.layer[i]
        _swap(layer, DroppingLayer)
        layer.share, layer.by, layer.family = share, str(spec["score"]), family


def _swap(module: Any, before: type) -> None:
    """Put a class before that of a module: hooks and weights go on as they are."""
    now = type(module)
    if not issubclass(now, before):
        module.__class__ = type(f"{before.__name__}{now.__name__}", (before, now), {"__module__": __name__})
