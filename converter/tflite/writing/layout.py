"""How a TFLite file of a model that writes text is laid out: names of signatures and tensors, lengths and cache.

The names and axes of a causal model are those that LiteRT-LM looks for; keys are `[1, heads, cache, size]` and values
`[1, heads, size, cache]`, so that both products of attention read them as they lie.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from converter.errors import UsageError
from converter.graphs import CacheFacts

PREFILL, ENCODE, DECODE = "prefill_", "encode_", "decode"
"""Signatures: `prefill_16` reads 16 tokens of a prompt, `encode_16` a text; `decode` takes one and gives logits."""
TOKENS, POSITIONS, MASK, LOGITS = "tokens", "input_pos", "mask", "logits"
SOURCE_MASK = "source_mask"
"""Of an encoder-decoder's text, 1 for a token and 0 for padding: `encode` and `decode` take it."""
STATES = "last_hidden_state"
CACHE_KEY, CACHE_VALUE = "kv_cache_k_", "kv_cache_v_"
CROSS_KEY, CROSS_VALUE = "cross_k_", "cross_v_"
"""Followed by the number of the layer."""
UNSEEN = -1e9
"""Added to the scores of what a token may not see."""
DEFAULT_CACHE = 1024
"""Positions of a causal model's cache."""
DEFAULT_ANSWER = 128
"""Positions of an encoder-decoder's cache: its answers have their own, and sentences are short."""
DEFAULT_PREFILL = (16, 128)
DEFAULT_ENCODE = (16, 32, 64, 128)


@dataclass(frozen=True)
class Layout:
    """The sizes of one file.

    `lengths` are ascending: tokens of each `prefill_N`, or of each `encode_N`, of which the longest is the cache's.
    """

    causal: bool
    cache: int
    lengths: tuple[int, ...]
    layers: int

    @property
    def source_length(self) -> int:
        """Tokens of the longest text that an encoder-decoder's file takes, which its cross keys are as long as."""
        return self.lengths[-1]

    @property
    def signatures(self) -> tuple[str, ...]:
        return (*(f"{PREFILL if self.causal else ENCODE}{n}" for n in self.lengths), DECODE)


def layer_count(cache: CacheFacts) -> int:
    return sum(name.endswith((".decoder.key", ".key")) and ".encoder." not in name for name in cache.sizes)


def plan_layout(cache: CacheFacts, *, causal: bool, positions: int, wanted: int, lengths: Iterable[int]) -> Layout:
    """Return the sizes of a file for a model of `positions`; `wanted` 0 and no `lengths`: the usual ones.

    Raises:
        UsageError: the cache is longer than the positions, or a length longer than what it is read into.

    """
    given = tuple(sorted(set(lengths)))
    usual = DEFAULT_CACHE if causal else max((DEFAULT_ANSWER, *given))
    if wanted > positions:
        raise UsageError(
            f"a cache of {wanted} positions exceeds the model's {positions}",
            where="tflite.cache",
            hint=f"give at most {positions}, or leave it out",
        )
    size = wanted or min(usual, positions)
    if given and given[-1] > size:
        raise UsageError(
            f"a length of {given[-1]} tokens exceeds the {'cache' if causal or size < positions else 'model'}'s {size}",
            where="--seq-len",
            hint=f"give at most {size}" + (", or a longer cache" if size < positions else ""),
        )
    made = given or tuple(n for n in (DEFAULT_PREFILL if causal else DEFAULT_ENCODE) if n <= size) or (size,)
    # Texts and answers of an encoder-decoder have one limit, that of its tokenizer: its longest text fills the cache.
    return Layout(causal, size, made if causal else tuple(sorted({*made, size})), layer_count(cache))


def cache_names(layers: int) -> tuple[str, ...]:
    """Return the tensors of the cache, layer by layer."""
    return tuple(f"{kind}{i}" for i in range(layers) for kind in (CACHE_KEY, CACHE_VALUE))


def cross_names(layers: int) -> tuple[str, ...]:
    """Return the tensors of the cross keys and values, layer by layer."""
    return tuple(f"{kind}{i}" for i in range(layers) for kind in (CROSS_KEY, CROSS_VALUE))
