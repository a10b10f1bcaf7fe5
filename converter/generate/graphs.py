"""The graphs of models that write text: a causal model with a cache, or an encoder and a decoder with a cache."""

from collections.abc import Mapping

from converter.graphs import BATCH, ENCODER_SEQUENCE, MODEL, PAST, SEQUENCE, VOCABULARY, GraphSpec, TensorSpec

ENCODER, DECODER = "encoder_model", "decoder_model_merged"
"""The names of the two graphs of an encoder-decoder, and of their files: those that clients look for."""
TOTAL = "total_sequence"
"""Tokens in the cache and tokens fed, together."""
PAST_ENCODER = "past_encoder_sequence"
"""Encoder positions whose keys and values are in the cache: none at the first step, all of them later."""
PAST_PREFIX, PRESENT_PREFIX = "past_key_values.", "present."

CacheSizes = Mapping[str, tuple[int, int]]
"""Heads and head size of each tensor of a cache, in the order that graphs list them: `0.key`, `0.value`, `1.key` … of a
causal model; `0.decoder.key`, `0.decoder.value`, `0.encoder.key`, `0.encoder.value` … of an encoder-decoder. Clients
pair inputs and outputs by position, so this order is part of the interface."""


def causal_graphs(
    cache: CacheSizes, vocabulary: int, pad_id: int, *, position_ids: bool = True
) -> dict[str, GraphSpec]:
    """Return the one graph of a causal model: tokens, the mask of all tokens so far and a cache to logits and a cache.

    Texts are padded on the left: the next token follows the last one.
    """
    ids = TensorSpec("input_ids", "int64", (BATCH, SEQUENCE), pad_id, "left", (0, vocabulary - 1))
    mask = TensorSpec("attention_mask", "int64", (BATCH, TOTAL), 0, "left", (1, 1))
    positions = TensorSpec("position_ids", "int64", (BATCH, SEQUENCE), 0, "left")
    inputs = (ids, mask, *((positions,) if position_ids else ()), *_cache(cache, PAST_PREFIX, PAST, PAST_ENCODER))
    logits = TensorSpec("logits", "float32", (BATCH, SEQUENCE, VOCABULARY), side="left")
    outputs = (logits, *_cache(cache, PRESENT_PREFIX, TOTAL, ENCODER_SEQUENCE))
    return {MODEL: GraphSpec(MODEL, inputs, outputs)}


def encoder_decoder_graphs(cache: CacheSizes, vocabulary: int, pad_id: int, width: int) -> dict[str, GraphSpec]:
    """Return the encoder, texts padded on the right, and the decoder that reads its `width` wide output."""
    drawn = (0, vocabulary - 1)
    states = (BATCH, ENCODER_SEQUENCE, width)
    encoder = GraphSpec(
        ENCODER,
        (
            TensorSpec("input_ids", "int64", (BATCH, ENCODER_SEQUENCE), pad_id, draw=drawn),
            TensorSpec("attention_mask", "int64", (BATCH, ENCODER_SEQUENCE), draw=(1, 1)),
        ),
        (TensorSpec("last_hidden_state", "float32", states),),
    )
    inputs = (
        TensorSpec("encoder_attention_mask", "int64", (BATCH, ENCODER_SEQUENCE), draw=(1, 1)),
        TensorSpec("input_ids", "int64", (BATCH, SEQUENCE), pad_id, draw=drawn),
        TensorSpec("encoder_hidden_states", "float32", states),
    )
    logits = TensorSpec("logits", "float32", (BATCH, SEQUENCE, VOCABULARY))
    decoder = GraphSpec(
        DECODER,
        (*inputs, *_cache(cache, PAST_PREFIX, PAST, PAST_ENCODER)),
        (logits, *_cache(cache, PRESENT_PREFIX, TOTAL, ENCODER_SEQUENCE)),
    )
    return {ENCODER: encoder, DECODER: decoder}


def decoder_of(specs: Mapping[str, GraphSpec]) -> GraphSpec:
    """Return the graph that gives logits."""
    return specs[DECODER] if DECODER in specs else specs[MODEL]


def keeps_cache(specs: Mapping[str, GraphSpec]) -> bool:
    """Tell whether graphs hand keys and values on from token to token."""
    return any(name.startswith(PAST_PREFIX) for spec in specs.values() for name in spec.input_names)


def in_order(specs: Mapping[str, GraphSpec]) -> dict[str, GraphSpec]:
    """Return graphs in the order in which they run: an encoder before its decoder."""
    return {name: specs[name] for name in sorted(specs, key=lambda name: name != ENCODER)}


def cache_names(spec: GraphSpec) -> dict[str, str]:
    """Return the output that becomes each cache input at the next step, by that input."""
    names = [n for n in spec.input_names if n.startswith(PAST_PREFIX)]
    return {n: PRESENT_PREFIX + n.removeprefix(PAST_PREFIX) for n in names}


def _cache(sizes: CacheSizes, prefix: str, own: str, cross: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(f"{prefix}{name}", "float32", (BATCH, heads, cross if ".encoder." in name else own, size))
        for name, (heads, size) in sizes.items()
    )
