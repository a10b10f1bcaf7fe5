"""The modules that LiteRT traces of a model that writes text: a cache of fixed size, written at a position.

Unlike the graphs of `converter.generate.modules`, whose cache grows, these have one shape for every step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from converter.graphs import CacheFacts, GraphSpec
from converter.tflite.lower.graph import Rewritten
from converter.tflite.writing.layout import (
    CACHE_KEY,
    CACHE_VALUE,
    CROSS_KEY,
    CROSS_VALUE,
    LOGITS,
    MASK,
    POSITIONS,
    SOURCE_MASK,
    STATES,
    TOKENS,
    UNSEEN,
    Layout,
)
from converter.tflite.writing.rotary import settled_positions
from converter.tflite.writing.signatures import expected

ATTENTION = "plm_export_fixed_cache"
"""The name of `FixedAttention` among those of transformers."""


class FixedLayer(DynamicLayer):
    """Keys `[1, heads, cache, size]` and values `[1, heads, size, cache]`, written at `position` and read whole."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, position: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.position = keys, values, position
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from litert_torch.generative.custom_ops.dynamic_update_slice import dynamic_update_slice

        zero = torch.zeros((), dtype=torch.int32)
        at = self.position
        self.keys = dynamic_update_slice(self.keys, key_states, [zero, zero, at, zero])
        self.values = dynamic_update_slice(self.values, value_states.transpose(2, 3), [zero, zero, zero, at])
        _turned.append(self.values)
        return self.keys, self.values

    def get_seq_length(self) -> Any:
        return self.position

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0


class KnownLayer(DynamicLayer):
    """Cross keys and values that were computed once, the values turned."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        _turned.append(values)
        _crossed.append(keys)

    def get_seq_length(self) -> int:
        return int(self.keys.shape[2])


class CausalStep(torch.nn.Module):
    """Tokens, their positions, a mask `[1, 1, length, cache]` and the cache to the cache, and logits where wanted."""

    def __init__(self, model: Any, *, position_ids: bool, logits: bool) -> None:
        super().__init__()
        self.model, self.position_ids, self.logits = model, position_ids, logits

    def forward(self, **given: torch.Tensor) -> dict[str, torch.Tensor]:
        with Rewritten():
            return self._step(given)

    def _step(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tokens, positions, mask = (given[name] for name in (TOKENS, POSITIONS, MASK))
        cache = _fixed_cache(given, positions[0])
        made = self.model(
            input_ids=tokens,
            attention_mask=_masks(self.model.config, mask, positions),
            past_key_values=cache,
            use_cache=True,
            **({"position_ids": positions[None]} if self.position_ids else {}),
        )
        return _cache_tensors(cache.layers) | ({LOGITS: made.logits} if self.logits else {})


class EncodeText(torch.nn.Module):
    """A text `[1, length]` and its mask to cross keys and values, filled up to `longest`, and the encoder's states."""

    def __init__(self, model: Any, longest: int) -> None:
        super().__init__()
        self.model, self.longest = model, longest

    def forward(self, **given: torch.Tensor) -> dict[str, torch.Tensor]:
        with Rewritten():
            return self._encode(given)

    def _encode(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tokens, mask = given[TOKENS], given[SOURCE_MASK]
        length = tokens.shape[1]
        unseen = _unseen(mask).expand(-1, -1, length, -1)
        states = self.model.get_encoder()(input_ids=tokens, attention_mask=unseen).last_hidden_state
        made = {STATES: states}
        room = self.longest - length
        for i, (keys, values) in enumerate(_cross_projections(self.model)):
            size = self.head_size(i)
            key = keys(states).view(1, length, -1, size).transpose(1, 2)
            value = values(states).view(1, length, -1, size).permute(0, 2, 3, 1)
            made[f"{CROSS_KEY}{i}"] = torch.nn.functional.pad(key, (0, 0, 0, room)) if room else key
            made[f"{CROSS_VALUE}{i}"] = torch.nn.functional.pad(value, (0, room)) if room else value
        return made

    def head_size(self, layer: int) -> int:
        sizes: tuple[int, ...] = self.model.plm_export_cross_sizes
        return sizes[layer]


class DecodeStep(torch.nn.Module):
    """One token of an answer, its position, the masks, the cache and the cross keys to the cache and logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **given: torch.Tensor) -> dict[str, torch.Tensor]:
        with Rewritten():
            return self._step(given)

    def _step(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tokens, positions, mask = (given[name] for name in (TOKENS, POSITIONS, MASK))
        own = _fixed_cache(given, positions[0])
        cross = DynamicCache()
        for i in range(len(own.layers)):
            cross.layers.append(KnownLayer(given[f"{CROSS_KEY}{i}"], given[f"{CROSS_VALUE}{i}"]))
        cache = EncoderDecoderCache(own, cross)
        cache.is_updated = dict.fromkeys(range(len(own.layers)), True)
        width = self.model.get_encoder().get_input_embeddings().weight.shape[1]
        made = self.model(
            decoder_input_ids=tokens,
            decoder_attention_mask=mask,
            attention_mask=_unseen(given[SOURCE_MASK]),
            encoder_outputs=(torch.zeros(1, given[SOURCE_MASK].shape[1], width),),
            past_key_values=cache,
            use_cache=True,
        )
        return _cache_tensors(own.layers) | {LOGITS: made.logits}


def sample_inputs(layout: Layout, specs: Mapping[str, GraphSpec], signature: str) -> dict[str, torch.Tensor]:
    """Return what a signature is traced with: a text without padding at the beginning of an empty cache."""
    shapes, _ = expected(layout, specs, signature)
    made = {name: torch.zeros(shape, dtype=getattr(torch, kind)) for name, (shape, kind) in shapes.items()}
    if POSITIONS in made:
        made[POSITIONS] = torch.arange(len(made[POSITIONS]), dtype=torch.int32)
    return made | {name: torch.ones_like(made[name]) for name in (TOKENS, SOURCE_MASK) if name in made}


def step_modules(model: Any, layout: Layout, facts: CacheFacts) -> dict[str, torch.nn.Module]:
    """Return the module of each signature, by its name."""
    if layout.causal:
        positions = facts.position_ids
        return {
            name: CausalStep(model, position_ids=positions, logits=name == "decode").eval()
            for name in layout.signatures
        }
    model.plm_export_cross_sizes = tuple(facts.sizes[f"{i}.encoder.key"][1] for i in range(layout.layers))
    return {
        name: DecodeStep(model).eval() if name == "decode" else EncodeText(model, layout.source_length).eval()
        for name in layout.signatures
    }


@contextmanager
def fixed_attention(model: Any) -> Iterator[None]:
    """Attention that reads caches of fixed size as they lie, and GPT-2's layers as the linear layers that they are."""
    AttentionInterface.register(ATTENTION, FixedAttention.forward)
    before = model.config._attn_implementation  # noqa: SLF001 - there is no public reader
    model.set_attn_implementation(ATTENTION)
    replaced = _linear_layers(model)
    try:
        with settled_positions(model):
            yield
    finally:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)
        model.set_attn_implementation(before)
        _turned.clear()
        _crossed.clear()


def _linear_layers(model: Any) -> list[tuple[Any, str, Any]]:
    """Put linear layers where GPT-2 has its own kind, whose weights lie the other way; returns what was there."""
    replaced = []
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer).__name__ == "Conv1D":
                inputs, outputs = layer.weight.shape
                made = torch.nn.Linear(inputs, outputs)
                made.weight = torch.nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=False)
                made.bias = layer.bias
                setattr(parent, name, made.eval())
                replaced.append((parent, name, layer))
    return replaced


_turned: list[torch.Tensor] = []
"""Values `[1, heads, size, length]` of the trace in progress, by which attention knows them."""
_crossed: list[torch.Tensor] = []
"""Cross keys of the trace in progress."""


class FixedAttention:
    """Attention that takes the place of one of transformers', and is called its way."""

    @staticmethod
    def forward(
        _module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        position_bias: torch.Tensor | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        """Vaswani et al., arXiv 1706.03762, the queries of a key/value head beside each other: keys are not repeated.

        Raises:
            NotImplementedError: a model wants something of attention that this does not know.

        """
        unknown = sorted(n for n, v in more.items() if isinstance(v, torch.Tensor) and n != "position_ids")
        if unknown:
            raise NotImplementedError(f"attention with {', '.join(unknown)}")
        _, heads, length, size = query.shape
        kept = key.shape[1]
        grouped = query.reshape(1, kept, heads // kept * length, size)
        scores = torch.einsum("bhid,bhjd->bhij", grouped, key) * (size**-0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if position_bias is not None and not any(key is known for known in _crossed):
            # T5's, by distance; between the two stacks it is zero.
            scores = scores + _grouped(position_bias, heads, kept, length)
        if attention_mask is not None:
            scores = scores + _grouped(attention_mask[..., : key.shape[2]], heads, kept, length)
        shares = torch.softmax(scores, dim=-1)
        turned = any(value is known for known in _turned)
        made = torch.einsum("bhij,bhdj->bhid" if turned else "bhij,bhjd->bhid", shares, value)
        return made.reshape(1, heads, length, -1).transpose(1, 2).contiguous(), None


def _grouped(mask: torch.Tensor, heads: int, kept: int, length: int) -> torch.Tensor:
    """Return a mask for the rows of `FixedAttention`: one a query head of each key/value head."""
    if mask.shape[1] == heads and heads > 1:
        return mask.reshape(1, kept, heads // kept * mask.shape[2], -1)
    return mask if heads == kept or length == 1 else mask.repeat(1, 1, heads // kept, 1)


def _fixed_cache(given: dict[str, torch.Tensor], position: torch.Tensor) -> DynamicCache:
    cache = DynamicCache()
    for i in range(sum(name.startswith(CACHE_KEY) for name in given)):
        cache.layers.append(FixedLayer(given[f"{CACHE_KEY}{i}"], given[f"{CACHE_VALUE}{i}"], position))
    return cache


def _cache_tensors(layers: Sequence[Any]) -> dict[str, torch.Tensor]:
    made = {}
    for i, layer in enumerate(layers):
        made[f"{CACHE_KEY}{i}"], made[f"{CACHE_VALUE}{i}"] = layer.keys, layer.values
    return made


def _masks(config: Any, mask: torch.Tensor, positions: torch.Tensor) -> Any:
    """Return the mask of each kind of layer: those with a window do not see what lies before it."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is None or (kinds and "sliding_attention" not in kinds):
        return mask
    places = torch.arange(mask.shape[3], dtype=torch.int32)[None, None, None]
    far = positions[None, None, :, None] - places >= window
    local = mask + far.to(torch.float32) * UNSEEN
    return {"full_attention": mask, "sliding_attention": local} if kinds else local


def _unseen(mask: torch.Tensor) -> torch.Tensor:
    return (1 - mask.to(torch.float32))[:, None, None] * UNSEEN


def _cross_projections(model: Any) -> list[tuple[Any, Any]]:
    """Return what makes keys and values of the encoder's states, layer by layer."""
    decoder = model.get_decoder()
    made = []
    for layer in decoder.block if hasattr(decoder, "block") else decoder.layers:
        if hasattr(layer, "encoder_attn"):
            made.append((layer.encoder_attn.k_proj, layer.encoder_attn.v_proj))
        else:
            made.append((layer.layer[1].EncDecAttention.k, layer.layer[1].EncDecAttention.v))
    return made
