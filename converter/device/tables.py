"""A tokenizer asked for its tables: no Unicode library is needed to read them, and no regular expressions.

A phone's own Unicode data differ from system to system. So nothing is left to it: what the tokenizer's normalizer makes
of each of the 1.1 million characters, and where its pre-tokenizer cuts, are asked of the tokenizer itself and written
down. A tokenizer of which the tables cannot express some part is refused, with the reason.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from converter.device.tokenizer.characters import white_space
from converter.device.tokenizer.form import (
    TABLES_FILE,
    VOCABULARY_FILE,
    NoTables,
    Piece,
    Special,
    Tables,
    escaped,
    unescaped,
    write_tables,
)
from converter.device.tokenizer.models import KINDS, decoder_rows, model_rows, vocabulary_of
from converter.device.tokenizer.normalizing import normalizer_steps
from converter.device.tokenizer.splitting import split_steps

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "TABLES_FILE",
    "VOCABULARY_FILE",
    "NoTables",
    "Tables",
    "escaped",
    "read_tables",
    "unescaped",
    "write_tables",
]


def read_tables(backend: "Tokenizer") -> Tables:
    """Ask a tokenizer for its tables.

    Raises:
        NoTables: some part of it has no form as tables; says which.

    """
    backend = type(backend).from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    table = json.loads(backend.to_str())
    model = table["model"]
    if model["type"] not in KINDS:
        raise NoTables(f"its model is {model['type']}, not one of {', '.join(KINDS)}")
    vocabulary = vocabulary_of(model)
    rows = model_rows(model)
    for token in table["added_tokens"]:
        if token["single_word"]:
            raise NoTables(f"its token {token['content']!r} matches whole words only")
    normalizer, splits = normalizer_steps(table["normalizer"]), split_steps(table["pre_tokenizer"])
    word = _a_word(backend, vocabulary, {t["content"] for t in table["added_tokens"]} | {model.get("unk_token")})
    return Tables(
        kind=KINDS[model["type"]],
        vocabulary=vocabulary,
        model=rows,
        single=_template(backend, word, None),
        pair=_template(backend, word, word),
        specials=tuple(_special(backend, token) for token in table["added_tokens"]),
        spaces=white_space(),
        normalizer=normalizer,
        splits=splits,
        decoder=decoder_rows(table["decoder"]),
    )


def _special(backend: "Tokenizer", token: dict[str, Any]) -> Special:
    content: str = token["content"]
    looked_for = token["normalized"] and backend.normalizer
    return Special(
        content=backend.normalizer.normalize_str(content) if looked_for else content,
        id=token["id"],
        normalized=token["normalized"],
        left=token["lstrip"],
        right=token["rstrip"],
        special=token["special"],
        # As decoding has it: of some versions of the library that is the normalized content.
        spelling=backend.id_to_token(token["id"]) or content,
    )


def _a_word(backend: "Tokenizer", vocabulary: Iterable[str], special: set[str | None]) -> str:
    """Return a text that comes out as one token."""
    for id_, token in enumerate(vocabulary):
        if token in special:
            continue
        for text in (token, backend.decode([id_])):
            if text and backend.encode(text, add_special_tokens=False).ids == [id_]:
                return text
    raise NoTables("no word of its vocabulary is one token")


def _template(backend: "Tokenizer", word: str, pair: str | None) -> tuple[Piece, ...]:
    """Return what stands around one text, or two, by giving each a single token."""
    made = backend.encode(word, pair)
    parts: list[Piece] = []
    for id_, type_, sequence, special in zip(
        made.ids, made.type_ids, made.sequence_ids, made.special_tokens_mask, strict=True
    ):
        parts.append((str(id_) if special or sequence is None else "AB"[sequence], type_))
    return tuple(parts)
