"""A tokenizer's model as rows: the pieces it chooses from, and by what."""

import math
from typing import Any

from converter.device.tokenizer.form import NoTables, Row, escaped

KINDS = {"WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "unigram"}


def vocabulary_of(model: dict[str, Any]) -> tuple[str, ...]:
    """Return the pieces in the order of their ids.

    Raises:
        NoTables: there are none, or their ids have gaps.

    """
    if model["type"] == "Unigram":
        return tuple(piece for piece, _ in model["vocab"])
    pieces = sorted(model["vocab"].items(), key=lambda pair: pair[1])
    if [i for _, i in pieces] != list(range(len(pieces))):
        raise NoTables("the ids of its vocabulary have gaps")
    return tuple(piece for piece, _ in pieces)


def model_rows(model: dict[str, Any]) -> tuple[Row, ...]:
    """Return the rows of a model, as tokenizer.json has it.

    Raises:
        NoTables: it has a part that the tables cannot express.

    """
    match model["type"]:
        case "WordPiece":
            return _word_piece(model)
        case "BPE":
            return _bpe(model)
        case "Unigram":
            return _unigram(model)
        case _:
            raise NoTables(f"its model is {model['type']}")


def _word_piece(model: dict[str, Any]) -> tuple[Row, ...]:
    if model["unk_token"] not in model["vocab"]:
        raise NoTables(f"its unknown token {model['unk_token']!r} is not in its vocabulary")
    return (
        ("unknown", str(model["vocab"][model["unk_token"]])),
        ("prefix", escaped(model["continuing_subword_prefix"])),
        ("longest_word", str(model["max_input_chars_per_word"])),
    )


def _bpe(model: dict[str, Any]) -> tuple[Row, ...]:
    """Merges stand in the order of their ranks: `left,right`, and `,merged` where that is not the id after the last."""
    if model["dropout"]:
        raise NoTables("its merges are left out at random (dropout)")
    if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise NoTables("its pieces are marked where a word goes on or ends")
    ids, cells, last = model["vocab"], [], -1
    try:
        for left, right in model["merges"]:
            merged = ids[left + right]
            cells.append(f"{ids[left]},{ids[right]}" + ("" if merged == last + 1 else f",{merged}"))
            last = merged
    except KeyError as error:
        raise NoTables(f"a merge makes {error}, which is not in its vocabulary") from None
    unknown = ids.get(model["unk_token"], -1) if model["unk_token"] is not None else -1
    flags = "".join(str(int(bool(model[name]))) for name in ("fuse_unk", "byte_fallback", "ignore_merges"))
    return ("unknown", str(unknown)), ("flags", flags), ("merges", " ".join(cells))


def _unigram(model: dict[str, Any]) -> tuple[Row, ...]:
    scores = [float(score) for _, score in model["vocab"]]
    if not all(map(math.isfinite, scores)):
        raise NoTables("a piece of its vocabulary has no finite score")
    unknown = -1 if model["unk_id"] is None else model["unk_id"]
    flags = f"1{int(bool(model.get('byte_fallback')))}0"
    return ("unknown", str(unknown)), ("flags", flags), ("scores", " ".join(map(_number, scores)))


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def decoder_rows(decoder: dict[str, Any] | None) -> tuple[Row, ...]:
    r"""Return how pieces become text; none where no table says it.

    `bytes`: every letter of a piece stands for a byte. `pieces`: a sign for the space, whether the first piece loses
    it, whether `<0x41>` stands for a byte, how many spaces go at the beginning and at the end (`*`: all).
    """
    parts = _parts(decoder)
    if [p["type"] for p in parts] == ["ByteLevel"]:
        return (("decode", "bytes"),)
    sign, first, fallback, left, right = "", 0, 0, "0", "0"
    for part in parts:
        match part["type"]:
            case "Metaspace":
                sign, first = part["replacement"], int(part.get("prepend_scheme", "always") != "never")
            case "Replace" if part["content"] == " " and len(part["pattern"].get("String", "")) == 1:
                sign = part["pattern"]["String"]
            case "Replace" if part["pattern"].get("Regex") == "^ +| +$" and not part["content"]:
                left = right = "*"
            case "ByteFallback":
                fallback = 1
            case "Strip" if part["content"] == " ":
                left, right = str(part["start"]), str(part["stop"])
            case "Fuse":
                continue
            case _:
                return ()
    ended = all(p["type"] != "Strip" or parts[i - 1]["type"] == "Fuse" for i, p in enumerate(parts))
    if not parts or not ended or right not in {"0", "*"}:
        return ()
    return (("decode", "pieces", escaped(sign), f"{first}{fallback}", left, right),)


def _parts(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] != "Sequence":
        return [decoder]
    return [part for inner in decoder["decoders"] for part in _parts(inner)]
