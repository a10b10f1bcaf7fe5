"""One model being asked token by token: what is fed at each step, and the cache between steps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.generate.graphs import DECODER, ENCODER, LOGITS_TO_KEEP, cache_names, decoder_of
from converter.graphs import PAST, GraphSpec, Run, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Steps:
    """The rows of a batch and their cache.

    `encoding` has `input_ids` and `attention_mask`, int64 `[batch, length]`: padded on the left for a causal model, on
    the right for an encoder-decoder, whose encoder runs here, once.
    """

    def __init__(
        self,
        run: Run,
        specs: Mapping[str, GraphSpec],
        encoding: "Mapping[str, NDArray[np.int64]]",
        rope_switches_at: int | None = None,
    ) -> None:
        self._run, self._turn = run, rope_switches_at
        self._spec = decoder_of(specs)
        self._next = cache_names(self._spec)
        self._takes = frozenset(self._spec.input_names)
        mask = np.asarray(encoding["attention_mask"], dtype=np.int64)
        self._cache = {t.name: _empty(t, len(mask)) for t in self._spec.inputs if t.name in self._next}
        self._own = [t.name for t in self._spec.inputs if t.name in self._next and PAST in t.axes]
        self._fixed: dict[str, NDArray[Any]] = {}
        self._mask = self._ids = mask[:, :0]
        self.causal = DECODER not in specs
        if not self.causal:
            inputs = {n: encoding[n] for n in specs[ENCODER].input_names}
            states = run(ENCODER, inputs)["last_hidden_state"]
            fixed = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
            self._fixed = {n: v for n, v in fixed.items() if n in self._takes}

    def step(
        self, ids: "NDArray[np.int64]", mask: "NDArray[np.int64] | None" = None, keep: int | None = None
    ) -> "NDArray[np.float32]":
        """Feed `ids` `[rows, length]`, of which `mask` is 0 where there is padding; returns logits for each of them.

        The logits are `[rows, length, vocabulary]`, or those of the `keep` last tokens; the last tell the next token.
        """
        asked = ids.shape[1]
        ids, mask = self._from_start(ids, mask)
        keep = keep if ids.shape[1] == asked else min(asked, keep or asked)
        feed = {"input_ids": ids, **self._fixed, **self._cache, **self._seen(ids, mask)}
        if keep is not None:
            feed[LOGITS_TO_KEEP] = np.array([keep], dtype=np.int64)
        made = self._run(self._spec.name, feed)
        self._cache = {past: made[present] for past, present in self._next.items()}
        logits: NDArray[np.float32] = made["logits"]
        # A view would keep all of them.
        return logits if keep is None or keep >= logits.shape[1] else logits[:, logits.shape[1] - keep :].copy()

    def _from_start(
        self, ids: "NDArray[np.int64]", mask: "NDArray[np.int64] | None"
    ) -> "tuple[NDArray[np.int64], NDArray[np.int64] | None]":
        """Return all tokens so far where what the cache holds of them is of no use for a text that has grown so long.

        transformers does the same for Phi 3: keys are rotated otherwise in texts longer than those it learned first.
        """
        if self._turn is None:
            return ids, mask
        own, held = np.ones_like(ids) if mask is None else mask, self._mask.shape[1]
        self._ids = np.concatenate([self._ids, ids], axis=1)
        if not 0 < held <= self._turn < held + ids.shape[1]:
            return ids, mask
        self._cache = {name: values[:, :, :0] for name, values in self._cache.items()}
        whole, self._mask = np.concatenate([self._mask, own], axis=1), self._mask[:, :0]
        return self._ids, whole

    def _seen(self, ids: "NDArray[np.int64]", mask: "NDArray[np.int64] | None") -> "dict[str, NDArray[np.int64]]":
        """Return the mask of all tokens so far, and the positions of these, where the graph takes them."""
        if "attention_mask" not in self._takes:
            return {}
        self._mask = np.concatenate([self._mask, np.ones_like(ids) if mask is None else mask], axis=1)
        seen = {"attention_mask": self._mask}
        if "position_ids" in self._takes:
            seen["position_ids"] = np.maximum(self._mask.cumsum(axis=1)[:, -ids.shape[1] :] - 1, 0)
        return seen

    @property
    def cache_bytes(self) -> int:
        """Return the size of the cache as it is now."""
        return sum(int(values.nbytes) for values in self._cache.values())

    def repeat(self, times: int) -> None:
        """Put `times` rows where there was one."""
        if times > 1:
            self._mask, self._ids = (np.repeat(rows, times, axis=0) for rows in (self._mask, self._ids))
            self._fixed = {n: np.repeat(v, times, axis=0) for n, v in self._fixed.items()}
            self._cache = {n: np.repeat(v, times, axis=0) for n, v in self._cache.items()}

    def reorder(self, rows: "NDArray[np.int64]") -> None:
        """Go on from other rows of the same texts: what belongs to a text, such as the cross keys, stays as it is."""
        if not np.array_equal(rows, np.arange(len(rows))):
            self._ids = self._ids[rows] if self._turn is not None else self._ids
            self._cache |= {n: self._cache[n].take(rows, axis=0) for n in self._own}


def _empty(spec: TensorSpec, rows: int) -> "NDArray[Any]":
    """Return a cache tensor `[rows, heads, 0, size]`."""
    heads, size = (a for a in spec.axes if isinstance(a, int))
    return np.zeros((rows, heads, 0, size), dtype=spec.dtype)
