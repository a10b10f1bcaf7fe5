"""A fast tokenizer with fewer tokens: its `tokenizer.json` as data, what may not go, and what is left.

Why kept text keeps its tokens. WordPiece takes the longest piece that fits: one that was never taken is never missed.
Unigram takes the likeliest segmentation: of fewer candidates the same one wins, as long as the penalty of an unknown
character stays, which hangs on the least likely piece. BPE applies its merges by rank: those that made a kept token,
step by step, are kept, and the others never applied to kept text.
"""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.errors import DataError, SourceError

KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
SPACE = "\u2581"
"""SentencePiece's mark of a space."""
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def table_of(tokenizer: Any) -> dict[str, Any]:
    """Return the tokenizer as the table that stands in `tokenizer.json`.

    Raises:
        SourceError: it is of a kind whose vocabulary cannot be cut.

    """
    table: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = table["model"].get("type")
    if kind not in KINDS:
        raise SourceError(f"a {kind} tokenizer cannot be trimmed", hint=f"those that can: {', '.join(KINDS)}")
    return table


def pieces_of(table: Mapping[str, Any]) -> dict[int, str]:
    """Return every token by its id, added ones too."""
    vocab = table["model"]["vocab"]
    listed = enumerate(p for p, _ in vocab) if isinstance(vocab, list) else ((i, p) for p, i in vocab.items())
    return dict(listed) | {t["id"]: t["content"] for t in table["added_tokens"]}


def special_ids(tokenizer: Any, table: Mapping[str, Any]) -> set[int]:
    """Return the tokens without which the tokenizer is none: added ones, special ones, and the unknown one."""
    ids = {int(t["id"]) for t in table["added_tokens"]} | {int(i) for i in tokenizer.all_special_ids}
    model = table["model"]
    if model.get("unk_id") is not None:
        ids.add(int(model["unk_id"]))
    if isinstance(model["vocab"], dict) and model.get("unk_token") in model["vocab"]:
        ids.add(int(model["vocab"][model["unk_token"]]))
    return ids | set(_named_ids(table["post_processor"]))


def character_ids(table: Mapping[str, Any], *, ascii_only: bool = False) -> set[int]:
    """Return single characters (also as continuation, also after a space) and bytes: any text can still be spelled.

    With `ascii_only` those beyond ASCII are left out, but of a byte-level BPE, whose characters are bytes.
    """
    model = table["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    every = not ascii_only or model["type"] == "BPE"
    found = set()
    for i, piece in pieces_of(table).items():
        bare = piece.removeprefix(prefix).removeprefix(SPACE).removesuffix(suffix)
        is_byte = len(piece) == len("<0x00>") and piece.startswith("<0x")
        if is_byte or (len(bare) <= 1 and (every or bare.isascii())):
            found.add(i)
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        found.add(scores.index(min(scores)))
    return found


class Ancestors:
    """What a BPE token is merged from; of other kinds nothing."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._parts: dict[int, list[int]] = {}
        model = table["model"]
        if model["type"] == "BPE":
            ids: Mapping[str, int] = model["vocab"]
            for left, right, made in _merges(model):
                if made in ids and left in ids and right in ids:
                    self._parts.setdefault(ids[made], []).extend((ids[left], ids[right]))

    def of(self, token: int) -> set[int]:
        """Return `token` and all that it may be merged from, by whatever way."""
        found: set[int] = set()
        waiting = [token]
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting += self._parts.get(one, ())
        return found


def cut_table(table: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return the table with the tokens `kept` alone (ascending ids), numbered anew in that order."""
    new = {old: i for i, old in enumerate(kept)}
    made: dict[str, Any] = copy.deepcopy(dict(table))
    model = made["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [row for i, row in enumerate(model["vocab"]) if i in new]
        model["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
    else:
        model["vocab"] = {piece: new[i] for piece, i in model["vocab"].items() if i in new}
    if model["type"] == "BPE":
        left = model["vocab"]
        rows = zip(model["merges"], _merges(model), strict=True)
        model["merges"] = [row for row, parts in rows if all(p in left for p in parts)]
    for token in made["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber(made["post_processor"], new)
    made["padding"] = made["truncation"] = None  # transformers sets them anew with every call
    return made


def open_table(table: Mapping[str, Any], like: Any) -> Any:
    """Return a transformers tokenizer over `table` with the names and habits of `like`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    named = {name: token for name in SPECIAL_NAMES if (token := getattr(like, name, None)) is not None}
    prefix = getattr(like, "add_prefix_space", None)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(table)),
        model_max_length=like.model_max_length,
        model_input_names=list(like.model_input_names),
        padding_side=like.padding_side,
        truncation_side=like.truncation_side,
        clean_up_tokenization_spaces=bool(getattr(like, "clean_up_tokenization_spaces", False)),
        **named,
        **({} if prefix is None else {"add_prefix_space": bool(prefix)}),
    )


def _merges(model: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Yield left part, right part and what they make, by rank; older files write a merge as one text."""
    prefix = model.get("continuing_subword_prefix") or ""
    for row in model["merges"]:
        left, right = row.split(" ") if isinstance(row, str) else row
        yield left, right, left + right.removeprefix(prefix)


def _named_ids(part: Any) -> Iterable[int]:
    """Yield the token ids that a post-processor inserts: `ids` of a template, `[token, id]` of `cls` and `sep`."""
    if isinstance(part, list):
        for item in part:
            yield from _named_ids(item)
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "ids":
                yield from map(int, value)
            elif key in {"cls", "sep"} and isinstance(value, list):
                yield int(value[1])
            else:
                yield from _named_ids(value)


def _renumber(part: Any, new: Mapping[int, int]) -> None:
    """Give a post-processor the new ids, in place."""
    if isinstance(part, list):
        for item in part:
            _renumber(item, new)
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "ids":
                part[key] = [new[i] for i in value]
            elif key in {"cls", "sep"} and isinstance(value, list):
                part[key] = [value[0], new[value[1]]]
            else:
                _renumber(value, new)


def tried_pieces(tokenizer: Any, table: Mapping[str, Any], texts: Iterable[str]) -> set[int]:
    """Return the pieces that WordPiece takes of words that it then gives up as unknown; of other kinds none."""
    model = table["model"]
    if model["type"] != "WordPiece":
        return set()
    backend = tokenizer.backend_tokenizer
    known: Mapping[str, int] = model["vocab"]
    words: set[str] = set()
    for text in texts:
        plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
        parts = backend.pre_tokenizer.pre_tokenize_str(plain) if backend.pre_tokenizer else [(plain, None)]
        words.update(word for word, _ in parts)
    found: set[int] = set()
    for word in words:
        taken = _greedy(word, known, model)
        if taken is not None:
            found.update(taken)
    return found


def _greedy(word: str, known: Mapping[str, int], model: Mapping[str, Any]) -> list[int] | None:
    """Return the pieces taken before `word` is given up; None where it is spelled, or too long to be tried."""
    prefix, start = model["continuing_subword_prefix"], 0
    taken: list[int] = []
    if word in known or len(word) > model["max_input_chars_per_word"]:
        return None
    while start < len(word):
        head = prefix if start else ""
        end = next((e for e in range(len(word), start, -1) if head + word[start:e] in known), None)
        if end is None:
            return taken
        taken.append(known[head + word[start:end]])
        start = end
    return None


def read_list(path: Path) -> set[str]:
    """Read the tokens of a list, one a line, or of a `tokenizer.json`.

    Raises:
        DataError: it cannot be read, or names no token.

    """
    try:
        content = path.read_text(encoding="utf-8")
        found = set(pieces_of(json.loads(content)).values()) if path.suffix == ".json" else set(content.split("\n"))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the list of tokens cannot be read ({error})", where=str(path)) from None
    found.discard("")
    if not found:
        raise DataError("the list is empty", where=str(path), hint="one token per line")
    return found
