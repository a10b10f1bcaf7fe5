"""A TFLite file that writes text, opened in LiteRT and called as any other package: with a cache that grows.

The file's own cache has a fixed size, and each call writes its tokens behind those that are there. What callers get is
the part of it that is filled, so that one loop drives files of every kind.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import UsageError
from converter.generate.graphs import ENCODER, LOGITS_TO_KEEP, PAST_PREFIX, PRESENT_PREFIX
from converter.graphs import GraphSpec
from converter.target import Runner
from converter.tflite.runner import open_interpreter, runtime_name
from converter.tflite.writing.layout import (
    DECODE,
    ENCODE,
    LOGITS,
    MASK,
    POSITIONS,
    PREFILL,
    SOURCE_MASK,
    STATES,
    TOKENS,
    UNSEEN,
    cache_names,
    cross_names,
)
from converter.tflite.writing.signatures import expected, graph_infos, read_layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.writing.layout import Layout

    Tensors = dict[str, NDArray[Any]]
    Call = Callable[[str, Tensors], Tensors]

REMEMBERED = 64
"""Texts whose cross keys are kept until their decoder is called."""


class FixedCacheRunner(Runner):
    """Runs the rows of a batch one after the other, by signatures of a layout that take one text at a time.

    `call` runs a signature, by its name, on its inputs; `runtime` says what runs it.
    """

    max_batch = 1

    def __init__(self, layout: "Layout", specs: Mapping[str, GraphSpec], call: "Call", runtime: str) -> None:
        self.layout, self._call, self.runtime = layout, call, runtime
        self.max_length = layout.cache if layout.causal else min(layout.lengths[-1], layout.cache)
        self.graphs = graph_infos(specs)
        self._own, self._cross = cache_names(layout.layers), cross_names(layout.layers)
        given, gives = expected(layout, specs, DECODE)
        self.shapes = {name: shape for name, (shape, _) in given.items()}
        """Of what `decode` takes, by name."""
        self.vocabulary = gives[LOGITS][0][2]
        self._encoded: dict[bytes, Tensors] = {}
        self._last: Tensors = {}
        """The whole cache behind the last call: what is fed back next begins at its beginning, and is not copied."""

    def run(self, graph: str, feed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.float32]]":
        """Run one graph; of a prompt, only the logits that are asked for (`LOGITS_TO_KEEP`) are computed.

        Raises:
            UsageError: a text is longer than the file takes, or text and answer fill its cache.

        """
        rows = range(len(feed["input_ids"]))
        if graph == ENCODER:
            return _stacked([self._encode(feed, row) for row in rows])
        return _stacked([self._decode(feed, row) for row in rows])

    def _encode(self, feed: "Mapping[str, NDArray[Any]]", row: int) -> "Tensors":
        ids, mask = feed["input_ids"][row], feed["attention_mask"][row]
        real = int(np.asarray(mask).sum())
        length = next((n for n in self.layout.lengths if n >= real), None)
        if length is None:
            raise UsageError(
                f"the text has {real} tokens, the file takes at most {self.layout.lengths[-1]}",
                hint="shorten the text, or export with a longer --seq-len",
            )
        given = np.zeros((2, 1, length), dtype=np.int32)
        given[0, 0, :real], given[1, 0, :real] = ids[:real], 1
        made = self._call(f"{ENCODE}{length}", {TOKENS: given[0], SOURCE_MASK: given[1]})
        states = np.zeros((len(ids), made[STATES].shape[2]), dtype=np.float32)
        states[:real] = made[STATES][0, :real]
        self._remember(states[:real], {name: made[name] for name in self._cross})
        return {"last_hidden_state": states}

    def _decode(self, feed: "Mapping[str, NDArray[Any]]", row: int) -> "Tensors":
        """Feed one row: all of it but the last tokens at once, and those that have logits one by one."""
        ids = np.asarray(feed["input_ids"][row])
        past, own = self._past_of(feed, row, len(ids))
        tokens, done = ids[own], int(past.sum())
        if done + len(tokens) > self.layout.cache:
            raise UsageError(
                f"text and answer have {done + len(tokens)} tokens, the file's cache has {self.layout.cache} positions",
                hint="shorten the text or the answer, or export with a longer cache: --target tflite:cache=…",
            )
        cache = self._filled(feed, row, self._own, past, ".decoder." if self._is_pair else ".")
        more = self._known(feed, row) if self._is_pair else {}
        keep = int(feed[LOGITS_TO_KEEP][0]) if LOGITS_TO_KEEP in feed else len(ids)
        wanted = int(own[len(ids) - min(keep, len(ids)) :].sum())
        cache = self._prefill(tokens[: len(tokens) - wanted], done, cache, more)
        logits = np.zeros((min(keep, len(ids)), self.vocabulary), dtype=np.float32)
        places = np.flatnonzero(own[len(ids) - len(logits) :])
        for place, at in zip(places, range(len(tokens) - wanted, len(tokens)), strict=True):
            made = self._call(DECODE, self._step(tokens[at : at + 1], done + at, 1) | cache | more)
            logits[place] = made[LOGITS][0, 0]
            cache = {name: made[name] for name in self._own}
        present = np.concatenate([past, own])
        self._last = {**cache, **more}
        return {"logits": logits, **self._present(cache, present), **self._present_cross(feed, row, more)}

    @property
    def _is_pair(self) -> bool:
        return not self.layout.causal

    def _past_of(
        self, feed: "Mapping[str, NDArray[Any]]", row: int, length: int
    ) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
        """Return which positions of the cache, and which of the tokens that are fed, are no padding."""
        if self._is_pair:
            held = feed[f"{PAST_PREFIX}0.decoder.key"].shape[2]
            return np.ones(held, dtype=bool), np.ones(length, dtype=bool)
        mask = np.asarray(feed["attention_mask"][row]) > 0
        return mask[: len(mask) - length], mask[len(mask) - length :]

    def _prefill(self, tokens: "NDArray[Any]", done: int, cache: "Tensors", more: "Tensors") -> "Tensors":
        """Read tokens whose logits nobody wants: as many at a time as a signature takes, the last ones filled up."""
        at = 0
        while at < len(tokens):
            size = self._piece(len(tokens) - at, done + at)
            part = tokens[at : at + size]
            name = DECODE if size == 1 else f"{PREFILL}{size}"
            made = self._call(name, self._step(part, done + at, size) | cache | more)
            cache = {name: made[name] for name in self._own}
            at += len(part)
        return cache

    def _piece(self, left: int, done: int) -> int:
        """Return how many positions the next call takes: none may lie behind the cache, padding included."""
        lengths = self.layout.lengths if self.layout.causal else ()
        fitting = [n for n in lengths if done + n <= self.layout.cache]
        filled = [n for n in fitting if n <= left]
        if left == 1 or not fitting:
            return 1
        return filled[-1] if filled else fitting[0]

    def _step(self, tokens: "NDArray[Any]", done: int, size: int) -> "Tensors":
        ids = np.zeros((1, size), dtype=np.int32)
        ids[0, : len(tokens)] = tokens
        places = np.arange(done, done + size, dtype=np.int32)
        seen = np.arange(self.layout.cache)[None] <= places[:, None]
        return {
            TOKENS: ids,
            POSITIONS: places,
            MASK: np.where(seen, np.float32(0), np.float32(UNSEEN))[None, None],
        }

    def _filled(
        self, feed: "Mapping[str, NDArray[Any]]", row: int, names: tuple[str, ...], real: "NDArray[np.bool_]", part: str
    ) -> "Tensors":
        """Return the file's cache with the real positions of a row's cache at its beginning."""
        made, count = {}, int(real.sum())
        for i, name in enumerate(names):
            kind = ("key", "value")[i % 2]
            rows = feed[f"{PAST_PREFIX}{i // 2}{part}{kind}"][row]
            rows = rows if kind == "key" else rows.transpose(0, 2, 1)
            last = self._last.get(name)
            if last is not None and count == len(real) and _begins(rows, last[0]):
                made[name] = last  # what the last call gave, fed back as it is
                continue
            held = np.zeros(self.shapes[name], dtype=np.float32)
            if kind == "key":
                held[0, :, :count] = rows[:, real]
            else:
                held[0, :, :, :count] = rows[:, :, real]
            made[name] = held
        return made

    def _present(self, cache: "Tensors", real: "NDArray[np.bool_]") -> "Tensors":
        """Return the filled part of the file's cache as a caller's row has it, zeros where it has padding."""
        part = ".decoder." if self._is_pair else "."
        return _grown(cache, self._own, real, part)

    def _known(self, feed: "Mapping[str, NDArray[Any]]", row: int) -> "Tensors":
        """Return the cross keys and values of a row's text, and its mask."""
        seen = np.asarray(feed["encoder_attention_mask"][row]) > 0
        if seen.sum() > self.layout.source_length:
            raise UsageError(f"the text has {seen.sum()} tokens, the file takes at most {self.layout.source_length}")
        mask = np.zeros((1, self.layout.source_length), dtype=np.int32)
        mask[0, : int(seen.sum())] = 1
        if feed[f"{PAST_PREFIX}0.encoder.key"].shape[2]:
            return self._filled(feed, row, self._cross, seen, ".encoder.") | {SOURCE_MASK: mask}
        states = np.asarray(feed["encoder_hidden_states"][row])[seen]
        made = self._encoded.get(_digest(states))
        if made is None:
            raise UsageError("these encoder states were not made by this file, whose cross keys come from its encoder")
        return made | {SOURCE_MASK: mask}

    def _present_cross(self, feed: "Mapping[str, NDArray[Any]]", row: int, more: "Tensors") -> "Tensors":
        if not self._is_pair:
            return {}
        seen = np.asarray(feed["encoder_attention_mask"][row]) > 0
        return _grown(more, self._cross, seen, ".encoder.")

    def _remember(self, states: "NDArray[Any]", cross: "Tensors") -> None:
        """Keep what belongs to a text by its states: the file gives both in one call, callers ask for one of them."""
        self._encoded[_digest(states)] = cross
        while len(self._encoded) > REMEMBERED:
            del self._encoded[next(iter(self._encoded))]


class WriterRunner(FixedCacheRunner):
    """Runs a file in LiteRT's Interpreter.

    `xnnpack` False: LiteRT's own kernels, slower, without packed copies of the weights.

    Raises:
        PackageDamaged: the file is no TFLite model, or not laid out as the model is.

    """

    def __init__(self, path: Path, specs: Mapping[str, GraphSpec], threads: int = 1, *, xnnpack: bool = True) -> None:
        self._interpreter = open_interpreter(path, threads, xnnpack=xnnpack)
        self._signatures: dict[str, Any] = {}
        super().__init__(read_layout(path, specs), specs, self._run_signature, runtime_name(xnnpack=xnnpack))

    def _run_signature(self, name: str, given: "Tensors") -> "Tensors":
        # Memory is laid out, and weights are packed, when a signature is first asked for.
        if name not in self._signatures:
            self._signatures[name] = self._interpreter.get_signature_runner(name)
        made: Tensors = self._signatures[name](**given)
        return made


def _grown(cache: "Tensors", names: tuple[str, ...], real: "NDArray[np.bool_]", part: str) -> "Tensors":
    made, count = {}, int(real.sum())
    for i, name in enumerate(names):
        kind = ("key", "value")[i % 2]
        held = cache[name][0]
        rows = held[:, :count] if kind == "key" else held[:, :, :count].transpose(0, 2, 1)
        if count < len(real):
            grown = np.zeros((len(rows), len(real), rows.shape[2]), dtype=np.float32)
            grown[:, real] = rows
            rows = grown
        made[f"{PRESENT_PREFIX}{i // 2}{part}{kind}"] = rows
    return made


def _begins(part: "NDArray[Any]", whole: "NDArray[Any]") -> bool:
    """Tell whether an array is the very memory at the beginning of another."""
    return part.ctypes.data == whole.ctypes.data and part.strides == whole.strides


def _stacked(rows: "list[Tensors]") -> "Tensors":
    if len(rows) == 1:
        return {name: value[None] for name, value in rows[0].items()}
    return {name: np.stack([r[name] for r in rows]) for name in rows[0]}


def _digest(states: "NDArray[Any]") -> bytes:
    return hashlib.sha256(np.ascontiguousarray(states).tobytes()).digest()
