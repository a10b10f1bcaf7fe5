"""The module that LiteRT traces: int32 ids, the outputs that ship, and operations that it lowers well."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from converter.artifact import TorchModel


class MobileGraph(torch.nn.Module):
    """Int32 inputs `[1, length]` to a dict of named float32 outputs; an embedding model gives its embedding only."""

    def __init__(self, model: "TorchModel", output_names: tuple[str, ...]) -> None:
        super().__init__()
        self.traced = model.graph()
        self.output_names = output_names

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        with _Rewritten():
            made = self.traced(input_ids=input_ids, attention_mask=attention_mask, **types)
        return {name: made[name] for name in self.output_names}


class _Rewritten(TorchFunctionMode):
    """Spells normalization and attention so that no constant can be multiplied into the weights that follow.

    LiteRT's converter folds a normalization's scale and shift, and the attention's scale, into the next layer's
    weights. The new weights lie beside the old ones until the file is written: 3.6 times the model instead of 1.6, and
    nothing is gained, since a residual connection needs the normalized values anyway.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
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
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - the signature is torch's
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> torch.Tensor:
    """Vaswani et al., arXiv 1706.03762, scaled after the product. A row that may see nothing sees all, never NaN."""
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
    scores = torch.matmul(query, key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        lowest = torch.finfo(scores.dtype).min
        mask = torch.where(attn_mask, 0.0, lowest) if attn_mask.dtype == torch.bool else attn_mask
        scores = scores + mask
    return torch.matmul(torch.softmax(scores, dim=-1), value)


REWRITTEN: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.nn.functional.layer_norm: _layer_norm,
    torch.nn.functional.scaled_dot_product_attention: _attention,
}
