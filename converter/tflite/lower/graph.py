"""The module that LiteRT traces: int32 ids, the outputs that ship, and operations that it lowers well."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from converter.graphs import BATCH, MODEL, SEQUENCE, GraphSpec

if TYPE_CHECKING:
    from converter.artifact import TorchModel

UNSEEN = 3e4
"""Taken from the scores of what may not be seen: finite in half precision too, and its exponential is zero."""
ROUNDING = 1e-4
"""Above a whole number by less: it is one."""
PADDED = 4
"""Tokens of padding that show what attention masks."""


class MobileGraph(torch.nn.Module):
    """Int32 inputs `[1, length]` to a dict of named float32 outputs; an embedding model gives its embedding only.

    `longest`: the largest length that it is traced at.
    """

    def __init__(self, model: "TorchModel", output_names: tuple[str, ...], longest: int) -> None:
        super().__init__()
        self.traced = model.graphs()[MODEL]
        self.output_names = output_names
        self.padding_only = _masks_padding_only(self.traced, model.specs[MODEL], longest)
        """Whether all that attention masks is padding: one mask then serves every layer and every row."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        bias = (attention_mask[:, None, None].float() - 1) * UNSEEN if self.padding_only else None
        with Rewritten(bias):
            made = self.traced(input_ids=input_ids, attention_mask=attention_mask, **types)
        return {name: made[name] for name in self.output_names}


def _masks_padding_only(traced: torch.nn.Module, spec: GraphSpec, longest: int) -> bool:
    """Run as many tokens as there will be, and look at every mask that attention is given.

    As many: a window of neighbours (ModernBERT's) masks nothing until the text is longer than it.
    """
    feed = spec.dummy({BATCH: 1, SEQUENCE: longest}, padding=min(PADDED, longest))
    sample = {name: torch.from_numpy(rows).int() for name, rows in feed.items()}
    with torch.no_grad(), _Masks() as seen:
        traced(**sample)
    visible = sample["attention_mask"][:, None, None].bool()
    return bool(seen.masks) and all(mask is not None and _is_same(_allowed(mask), visible) for mask in seen.masks)


def _is_same(allowed: torch.Tensor, visible: torch.Tensor) -> bool:
    """Tell whether a mask allows what is `visible` `[1, 1, 1, length]`; one of fewer tokens is another."""
    return allowed.shape[-1] == visible.shape[-1] and bool((allowed == visible).all())


def _allowed(mask: torch.Tensor) -> torch.Tensor:
    return mask if mask.dtype == torch.bool else mask == 0


class _Masks(TorchFunctionMode):
    """Notes the mask of every attention."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[torch.Tensor | None] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.masks.append(args[3] if len(args) > 3 else (kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))


class Rewritten(TorchFunctionMode):
    """Spells normalization and attention in the operations that LiteRT runs best, all of them inside XNNPACK.

    No constant may be multiplied into the weights that follow a normalization: LiteRT's converter would fold its scale
    and shift. The new weights lie beside the old ones until the file is written: 3.6 times the model instead of 1.6,
    and nothing is gained, since a residual connection needs the normalized values anyway.
    """

    def __init__(self, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.bias = bias

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _attention(self.bias, *args, **(kwargs or {}))
        return REWRITTEN.get(func, func)(*args, **(kwargs or {}))


def _layer_norm(
    x: torch.Tensor,
    normalized_shape: list[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Ba et al., arXiv 1607.06450. The last operation is never an addition of, or product with, a constant."""
    axes = list(range(-len(normalized_shape), 0))
    centered = x - x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((centered * centered).mean(axes, keepdim=True) + eps)
    made = (centered if weight is None else centered * weight) * inverse
    return made if bias is None else made - (-bias)


def _attention(
    bias: torch.Tensor | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - the signature is torch's
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> torch.Tensor:
    """Vaswani et al., arXiv 1706.03762. A row that may see nothing sees all, never NaN; `bias` stands for the mask."""
    if is_causal or enable_gqa or dropout_p:
        return torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    # Products by einsum: they keep four axes and take the keys as they lie, without a transposed copy.
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    elif attn_mask is not None:
        scores = scores + (torch.where(attn_mask, 0.0, -UNSEEN) if attn_mask.dtype == torch.bool else attn_mask)
    return torch.einsum("bhij,bhjd->bhid", torch.softmax(scores, dim=-1), value)


def _ceil(x: torch.Tensor) -> torch.Tensor:
    """Round up what is above a whole number by more than kernels differ in a logarithm.

    DeBERTa's distances fall into buckets by `ceil(log(…))`; the longest is a whole number exactly, and a logarithm that
    is off by its last bit puts it into a bucket that is not there.
    """
    return torch.ceil(x - ROUNDING)


REWRITTEN: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.nn.functional.layer_norm: _layer_norm,
    torch.ceil: _ceil,
    torch.Tensor.ceil: _ceil,
}
