"""A TFLite file that writes text, opened in LiteRT and called as any other package: with a cache that grows.

The file's own cache has a fixed size, and each call writes its tokens behind those that are there. What callers get is
the part of it that is filled, so that one loop drives files of every kind.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from converter.errors import UsageError
from converter.generate.graphs import ENCODER, LOGITS_TO_KEEP, PAST_PREFIX, PRESENT_PREFIX
from converter.graphs import GraphSpec
from converter.target import Runner
from converter.tflite.runner import open_interpreter, runtime_name
from converter.tflite.writing.callers import CarriedCaches, CompiledSignatures, Interpreted
from converter.tflite.writing.compiled import open_compiled
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

    from converter.tflite.writing.callers import Caller, Tensors
    from converter.tflite.writing.layout import Layout

Kept = TypeVar("Kept")
WAITING, REMEMBERED = 64, 4096
"""Texts whose cross keys are kept until their decoder is called, and texts that are encoded once more when one asks."""


class FixedCacheRunner(Runner):
    """Runs the rows of a batch one after the other, by signatures of a layout that take one text at a time.

    `call` runs a signature, by its name, and keeps caches between calls; `runtime` says what runs it.
    """

    max_batch = 1

    def __init__(self, layout: "Layout", specs: Mapping[str, GraphSpec], call: "Caller", runtime: str) -> None:
        self.layout, self._call, self.runtime = layout, call, runtime
        self.max_length = layout.cache if layout.causal else min(layout.lengths[-1], layout.cache)
        self.graphs = graph_infos(specs)
        self._own, self._cross = cache_names(layout.layers), cross_names(layout.layers)
        given, gives = expected(layout, specs, DECODE)
        self.shapes = {name: shape for name, (shape, _) in given.items()}
        """Of what `decode` takes, by name."""
        self.vocabulary = gives[LOGITS][0][2]
        self._waiting: dict[bytes, Tensors] = {}
        """Cross keys of texts by their states: the file gives both in one call, callers ask for one of them."""
        self._texts: dict[bytes, NDArray[np.int32]] = {}
        """Tokens and mask of texts, by their states."""
        self._decoded = b""
        """The text whose decoder was called last without its cross keys; from then on they are fed back."""
        self._held: Tensors = {}
        """The caches behind the last call, `[heads, cache, size]`: what is fed back next begins at their beginning.

        They are only written behind what callers have of them.
        """
        self._filled_to = 0
        """Positions of them that were read."""
        self._scratch: dict[tuple[int, ...], tuple[NDArray[Any], int]] = {}
        """A cache by its shape, and how much of it is not zero."""
        self._cross_in_place: Tensors = {}
        """Cross keys that were put last, in the file's shapes."""

    def run(self, graph: str, feed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.float32]]":
        """Run one graph; of a prompt, only the logits that are asked for (`LOGITS_TO_KEEP`) are computed.

        The caches of a single row cannot be written: they are what the next call goes on from, in place.

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
        made = self._read_text(given)
        states = np.zeros((len(ids), made[STATES].shape[2]), dtype=np.float32)
        states[:real] = made[STATES][0, :real]
        text = _digest(states[:real])
        _keep(self._waiting, text, {name: made[name] for name in self._cross}, WAITING)
        _keep(self._texts, text, given, REMEMBERED)
        return {"last_hidden_state": states}

    def _read_text(self, given: "NDArray[np.int32]") -> "Tensors":
        """Call `encode` on tokens and mask `[2, 1, length]`; what was put as cross keys lies there no more."""
        self._cross_in_place = {}  # a call that raises may have written some
        return self._call(f"{ENCODE}{given.shape[2]}", {TOKENS: given[0], SOURCE_MASK: given[1]})

    def _cross_of(self, states: "NDArray[Any]") -> "Tensors":
        """Return cross keys by the states of a text.

        They are large, and fed back by whoever has them: those of the text before are dropped, and made once more
        where a second decoder begins with it.
        """
        text = _digest(states)
        if text not in self._texts:
            raise UsageError("these encoder states were not made by this file, whose cross keys come from its encoder")
        if text != self._decoded:
            self._waiting.pop(self._decoded, None)
        if text not in self._waiting:
            made = self._read_text(self._texts[text])
            _keep(self._waiting, text, {name: made[name] for name in self._cross}, WAITING)
        self._decoded = text
        return self._waiting[text]

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
        # What several rows are fed next is a copy of what they got: there is nothing to go on from.
        alone = len(feed["input_ids"]) == 1
        held = self._go_on(feed, row, past, self.layout.cache if alone else done + len(tokens))
        more = self._known(feed, row) if self._is_pair else {}
        keep = int(feed[LOGITS_TO_KEEP][0]) if LOGITS_TO_KEEP in feed else len(ids)
        wanted = int(own[len(ids) - min(keep, len(ids)) :].sum())
        self._prefill(tokens[: len(tokens) - wanted], done, more)
        logits = np.zeros((min(keep, len(ids)), self.vocabulary), dtype=np.float32)
        places = np.flatnonzero(own[len(ids) - len(logits) :])
        for place, at in zip(places, range(len(tokens) - wanted, len(tokens)), strict=True):
            made = self._call(DECODE, self._step(tokens[at : at + 1], done + at, 1) | more)
            logits[place] = made[LOGITS][0, 0]
        self._read_back(held, done, done + len(tokens))
        self._held, self._filled_to = held if alone else {}, done + len(tokens)
        present = _grown(held, np.concatenate([past, own]), self._part)
        return {"logits": logits, **present, **self._present_cross(feed, row)}

    def _go_on(self, feed: "Mapping[str, NDArray[Any]]", row: int, past: "NDArray[np.bool_]", room: int) -> "Tensors":
        """Let the next call go on from a row's cache; returns it, with room for so many positions."""
        names = [f"{PAST_PREFIX}{i // 2}{self._part}{('key', 'value')[i % 2]}" for i in range(len(self._own))]
        rows = {own: feed[name][row] for own, name in zip(self._own, names, strict=True)}
        held, self._held, done = self._held, {}, int(past.sum())
        if done == len(past) == self._filled_to and held and all(_begins(rows[n], held[n]) for n in held):
            return held
        held = {}
        for i, name in enumerate(self._own):
            _, heads, *sizes = self.shapes[name]
            held[name] = np.empty((heads, room, sizes[1 - i % 2]), dtype=np.float32)
            held[name][:, :done] = rows[name] if done == len(past) else rows[name][:, past]
            self._call.put({name: self._whole(held[name][:, :done], self.shapes[name], turned=i % 2 == 1)})
        return held

    def _whole(self, rows: "NDArray[Any]", shape: tuple[int, ...], *, turned: bool) -> "NDArray[np.float32]":
        """Return a cache in the file's shape, these rows at its beginning, zeros behind; the next call changes it."""
        made, filled = self._scratch.get((*shape, turned), (None, 0))
        made = np.zeros(shape, dtype=np.float32) if made is None else made
        places = made[0].transpose(0, 2, 1) if turned else made[0]
        places[:, : rows.shape[1]], places[:, rows.shape[1] : filled] = rows, 0
        self._scratch[(*shape, turned)] = made, rows.shape[1]
        return made

    def _read_back(self, held: "Tensors", begin: int, end: int) -> None:
        """Fill in what the last calls wrote."""
        for i, name in enumerate(self._own if end > begin else ()):
            made = self._call.get(name)[0]
            held[name][:, begin:end] = made[:, :, begin:end].transpose(0, 2, 1) if i % 2 else made[:, begin:end]

    @property
    def _part(self) -> str:
        return ".decoder." if self._is_pair else "."

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

    def _prefill(self, tokens: "NDArray[Any]", done: int, more: "Tensors") -> None:
        """Read tokens whose logits nobody wants: as many at a time as a signature takes, the last ones filled up."""
        at = 0
        while at < len(tokens):
            size = self._piece(len(tokens) - at, done + at)
            part = tokens[at : at + size]
            name = DECODE if size == 1 else f"{PREFILL}{size}"
            self._call(name, self._step(part, done + at, size) | more)
            at += len(part)

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

    def _known(self, feed: "Mapping[str, NDArray[Any]]", row: int) -> "Tensors":
        """Let the next call read the cross keys and values of a row's text; returns its mask."""
        seen = np.asarray(feed["encoder_attention_mask"][row]) > 0
        if seen.sum() > self.layout.source_length:
            raise UsageError(f"the text has {seen.sum()} tokens, the file takes at most {self.layout.source_length}")
        mask = np.zeros((1, self.layout.source_length), dtype=np.int32)
        mask[0, : int(seen.sum())] = 1
        if feed[f"{PAST_PREFIX}0.encoder.key"].shape[2]:
            cross = self._fed_back(feed, row, seen)
        else:
            cross = self._cross_of(np.asarray(feed["encoder_hidden_states"][row])[seen])
        if cross is not self._cross_in_place:
            self._cross_in_place = {}
            self._call.put(cross)
            self._cross_in_place = cross
        return {SOURCE_MASK: mask}

    def _fed_back(self, feed: "Mapping[str, NDArray[Any]]", row: int, seen: "NDArray[np.bool_]") -> "Tensors":
        """Return cross keys and values in the file's shapes, the very ones that lie there where it is they."""
        made, count, in_place = {}, int(seen.sum()), self._cross_in_place
        for i, name in enumerate(self._cross):
            rows = feed[f"{PAST_PREFIX}{i // 2}.encoder.{('key', 'value')[i % 2]}"][row]
            rows = rows.transpose(0, 2, 1) if i % 2 else rows
            if in_place and count == len(seen) and _begins(rows, in_place[name][0]):
                continue
            made[name] = np.zeros(self.shapes[name], dtype=np.float32)
            if i % 2:
                made[name][0, :, :, :count] = rows[:, :, seen]
            else:
                made[name][0, :, :count] = rows[:, seen]
        return {n: made[n] if n in made else in_place[n] for n in self._cross} if made else in_place

    def _present_cross(self, feed: "Mapping[str, NDArray[Any]]", row: int) -> "Tensors":
        if not self._is_pair:
            return {}
        seen = np.asarray(feed["encoder_attention_mask"][row]) > 0
        in_place = enumerate(self._cross_in_place.items())
        cross = {name: v[0].transpose(0, 2, 1) if i % 2 else v[0] for i, (name, v) in in_place}
        return _grown(cross, seen, ".encoder.")


class WriterRunner(FixedCacheRunner):
    """Runs a file in LiteRT.

    `xnnpack` False: its Interpreter with LiteRT's own kernels, slower, without packed copies of the weights.

    Raises:
        PackageDamaged: the file is no TFLite model, or not laid out as the model is.
        RuntimeMissing: LiteRT is too old to run it.

    """

    def __init__(self, path: Path, specs: Mapping[str, GraphSpec], threads: int = 1, *, xnnpack: bool = True) -> None:
        interpreter = open_interpreter(path, threads, xnnpack=False)
        layout = read_layout(path, specs)
        call: Caller = CarriedCaches(Interpreted(interpreter))
        if xnnpack:
            tensors = {name: expected(layout, specs, name) for name in layout.signatures}
            call = CompiledSignatures(open_compiled(path, threads), tensors)
        # Interpreter and CompiledModel lie in two libraries, each with its XNNPACK and its options. They were equal to
        # the last bit in what was tried (tiny models, float32 and int8), which LiteRT does not promise: a package that
        # was sealed by the one is held to the other's answers as to those of another machine.
        super().__init__(layout, specs, call, f"{runtime_name(xnnpack=xnnpack)}{' CompiledModel' * xnnpack}")


def _grown(cache: "Tensors", real: "NDArray[np.bool_]", part: str) -> "Tensors":
    """Return the filled part of caches `[heads, length, size]` as a caller's row has it, zeros where it has padding."""
    made, count = {}, int(real.sum())
    for i, held in enumerate(cache.values()):
        rows = held[:, :count]
        if count < len(real):
            grown = np.zeros((len(rows), len(real), rows.shape[2]), dtype=np.float32)
            grown[:, real] = rows
            rows = grown
        made[f"{PRESENT_PREFIX}{i // 2}{part}{('key', 'value')[i % 2]}"] = rows
    return made


def _begins(part: "NDArray[Any]", whole: "NDArray[Any]") -> bool:
    """Tell whether an array is the very memory at the beginning of another."""
    return part.ctypes.data == whole.ctypes.data and part.strides == whole.strides


def _keep(kept: dict[bytes, Kept], text: bytes, value: Kept, most: int) -> None:
    """Add what belongs to a text; beyond `most`, what was added first goes."""
    kept.pop(text, None)
    kept[text] = value
    while len(kept) > most:
        del kept[next(iter(kept))]


def _stacked(rows: "list[Tensors]") -> "Tensors":
    if len(rows) == 1:
        made = {name: value[None] for name, value in rows[0].items()}
        for name, value in made.items():
            value.flags.writeable = not name.startswith(PRESENT_PREFIX)
        return made
    return {name: np.stack([r[name] for r in rows]) for name in rows[0]}


def _digest(states: "NDArray[Any]") -> bytes:
    return hashlib.sha256(np.ascontiguousarray(states).tobytes()).digest()
