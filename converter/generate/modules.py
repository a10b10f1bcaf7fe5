"""A model of transformers as the graphs that `converter.generate.graphs` declares: what is exported, and the reference.

Every module takes named tensors and gives a dict of them, as the loop and the exporter want it.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from converter.errors import SourceError
from converter.generate.graphs import (
    DECODER,
    ENCODER,
    LOGITS_TO_KEEP,
    PAST_PREFIX,
    PRESENT_PREFIX,
    CacheSizes,
    causal_graphs,
    encoder_decoder_graphs,
)
from converter.graphs import MODEL, CacheFacts, GraphSpec, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

SELF, CROSS = ("key", "value"), ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
"""The tensors of one layer's cache, in the order that clients expect."""


SELF_KINDS = ("keys", "values")
"""What a layer of a cache calls them."""


class CausalGraph(torch.nn.Module):
    """Tokens, mask and cache to logits and cache."""

    def __init__(self, model: Any, *, position_ids: bool) -> None:
        super().__init__()
        self.model = model
        self.position_ids = position_ids

    def forward(self, feed: dict[str, torch.Tensor], keep: int | None = None) -> dict[str, torch.Tensor]:
        past = filled_cache(feed, SELF)
        made = self.model(
            input_ids=feed["input_ids"],
            attention_mask=feed["attention_mask"],
            past_key_values=past,
            use_cache=True,
            **({"position_ids": feed["position_ids"]} if self.position_ids else {}),
            **({} if keep is None else {"logits_to_keep": keep}),
        )
        layers = ((layer.keys, layer.values) for layer in made.past_key_values.layers)
        return {"logits": made.logits, **_present(layers, SELF)}


class EncoderGraph(torch.nn.Module):
    """Tokens and mask to the states that the decoder reads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, feed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        made = self.encoder(input_ids=feed["input_ids"], attention_mask=feed["attention_mask"])
        return {"last_hidden_state": made.last_hidden_state}


class DecoderGraph(torch.nn.Module):
    """Tokens, the encoder's states and a cache to logits and a cache.

    The cross keys are made from those states that the cache has none of yet: from all of them at the first step, and
    from none later. So one graph serves every step, without a branch.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, feed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        first = feed[f"{PAST_PREFIX}0.encoder.key"]
        own, cross = filled_cache(feed, CROSS[:2]), filled_cache(feed, CROSS[2:])
        past = EncoderDecoderCache(own, cross)
        # Outside an export the branch costs nothing, and PyTorch cannot reshape tensors without elements.
        known = not torch.compiler.is_exporting() and first.shape[2] > 0
        past.is_updated = dict.fromkeys(range(len(own.layers)), known)
        made = self.model(
            attention_mask=feed["encoder_attention_mask"],
            decoder_input_ids=feed["input_ids"],
            # A view of an input would tie its shape to the input's: the exporter then says they are equal.
            encoder_outputs=(feed["encoder_hidden_states"][:, first.shape[2] :].clone(),),
            past_key_values=past,
            use_cache=True,
        )
        after = made.past_key_values
        layers = (
            (mine.keys, mine.values, theirs.keys, theirs.values)
            for mine, theirs in zip(after.self_attention_cache.layers, after.cross_attention_cache.layers, strict=True)
        )
        return {"logits": made.logits, **_present(layers, CROSS)}


def filled_cache(feed: Mapping[str, torch.Tensor], kinds: tuple[str, ...]) -> DynamicCache:
    """Return a cache of the tensors in `feed`, every layer growing, whatever window its model has.

    A layer that forgets what lies outside its window would be of another length than the mask.
    """
    cache = DynamicCache()
    for i in range(sum(name.endswith(f".{kinds[0]}") for name in feed)):
        layer: Any = DynamicLayer()
        layer.keys, layer.values = (feed[f"{PAST_PREFIX}{i}.{kind}"] for kind in kinds)
        layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
        cache.layers.append(layer)
    return cache


def graph_modules(model: Any) -> dict[str, torch.nn.Module]:
    """Return the graphs of a model, by name."""
    if model.config.is_encoder_decoder:
        return {ENCODER: EncoderGraph(model), DECODER: DecoderGraph(model)}
    return {MODEL: CausalGraph(model, position_ids=takes_positions(model))}


def graph_specs(model: Any, *, pad_id: int = 0) -> dict[str, GraphSpec]:
    """Return what the graphs of a model take and give. The sizes of its cache are read off one call.

    Raises:
        SourceError: the model keeps something else than keys and values between tokens.

    """
    facts = cache_facts(model)
    if model.config.is_encoder_decoder:
        return encoder_decoder_graphs(facts.sizes, facts.vocabulary, pad_id, facts.width)
    return causal_graphs(facts.sizes, facts.vocabulary, pad_id, position_ids=facts.position_ids)


def cache_facts(model: Any) -> CacheFacts:
    """Return what the graphs of a model are declared by, read off one call of it.

    Raises:
        SourceError: the model keeps something else than keys and values between tokens.

    """
    sizes, width = _measure(model)
    rows = int(model.get_input_embeddings().weight.shape[0])
    causal = not model.config.is_encoder_decoder
    return CacheFacts(sizes, rows, width, position_ids=causal and takes_positions(model))


def takes_positions(model: Any) -> bool:
    """Tell whether a causal model takes position ids (BLOOM and MPT have none)."""
    import inspect

    return "position_ids" in inspect.signature(model.forward).parameters


def gives_chosen_logits(model: Any) -> bool:
    """Tell whether a model computes logits for the tokens alone that `logits_to_keep` names."""
    import inspect

    return "logits_to_keep" in inspect.signature(model.forward).parameters


def torch_graphs_run(model: Any) -> Run:
    """Return the model in PyTorch as a `run` for the loop.

    Where only the last logits are asked for (`LOGITS_TO_KEEP`) no others are computed, if the model can do that: each
    costs as much as several layers where the vocabulary is large.
    """
    modules, chooses = graph_modules(model), gives_chosen_logits(model)

    def run(graph: str, feed: "Mapping[str, NDArray[Any]]") -> "dict[str, NDArray[np.float32]]":
        keep = int(feed[LOGITS_TO_KEEP][0]) if LOGITS_TO_KEEP in feed and chooses and graph == MODEL else None
        given = {
            name: torch.from_numpy(np.ascontiguousarray(rows)) for name, rows in feed.items() if name != LOGITS_TO_KEEP
        }
        torch.get_num_threads()  # a thread of ours computes with the number that is set only once it was asked
        with torch.inference_mode():
            # Of none the models make all: one is the least.
            made = modules[graph](given) if keep is None else modules[graph](given, max(1, keep))
        return {name: value.numpy() for name, value in made.items()}

    return run


def _measure(model: Any) -> tuple[CacheSizes, int]:
    """Return heads and head size of every cache tensor, and the width of an encoder's states.

    Configurations name these in half a dozen ways, and some do not say them at all.
    """
    ids = torch.ones((1, 2), dtype=torch.int64)
    with torch.inference_mode():
        if not model.config.is_encoder_decoder:
            past = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
            return _sizes(((layer.keys, layer.values) for layer in _layers(past, model)), SELF), 0
        made = model(input_ids=ids, decoder_input_ids=ids, use_cache=True)
    past = made.past_key_values
    own, cross = (_layers(getattr(past, f"{kind}_attention_cache", None), model) for kind in ("self", "cross"))
    pairs = zip(own, cross, strict=True)
    sizes = _sizes(((a.keys, a.values, b.keys, b.values) for a, b in pairs), CROSS)
    return sizes, int(made.encoder_last_hidden_state.shape[-1])


def _layers(cache: Any, model: Any) -> list[Any]:
    """Return the layers of a cache of keys and values, one a layer of the model.

    Raises:
        SourceError: the model keeps something else between tokens.

    """
    layers = list(getattr(cache, "layers", None) or ())
    kept = [getattr(layer, kind, None) for layer in layers for kind in SELF_KINDS]
    if not layers or not all(isinstance(t, torch.Tensor) and t.dim() == 4 for t in kept):
        raise SourceError(
            "it keeps something else than keys and values between tokens, which is not supported",
            where=type(model).__name__,
            hint="export a model whose layers all are attention (GPT-2, Llama, Qwen, Gemma, T5, BART …)",
        )
    return layers


def _sizes(layers: Iterator[tuple[torch.Tensor, ...]], kinds: tuple[str, ...]) -> CacheSizes:
    return {
        f"{i}.{kind}": (int(tensor.shape[1]), int(tensor.shape[3]))
        for i, tensors in enumerate(layers)
        for kind, tensor in zip(kinds, tensors, strict=True)
    }


def _present(layers: Iterator[tuple[torch.Tensor, ...]], kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {
        f"{PRESENT_PREFIX}{i}.{kind}": tensor
        for i, tensors in enumerate(layers)
        for kind, tensor in zip(kinds, tensors, strict=True)
    }
