"""A tokenizer.json for tokenizers that are SentencePiece files beside a vocabulary: Marian's and M2M100's.

transformers reads those files with the sentencepiece library. Phones, browsers and the package's own samples cannot, so
the same pieces and scores are written as a model of the tokenizers library, under the ids of `vocab.json`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError
from converter.jsonfile import read_table

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SOURCE_SIDE, TARGET_SIDE = "source.spm", "target.spm"
UNIGRAM, BPE = 1, 2
"""Kinds of models in a SentencePiece file."""
_ORDINARY = 1
"""The kind of a piece of text."""
_LAST, _NEVER = -1e5, -1e9
"""Scores of pieces that the file does not have: chosen where nothing else is, and never."""
_STAND_IN = "\uf8ff"
"""A character that no vocabulary has."""
_SPACE = "▁"
_MARK = re.compile(r">>.+<<")


@dataclass(frozen=True)
class SentencePieces:
    """What a SentencePiece file holds."""

    kind: int
    scores: Mapping[str, float]
    """Of the pieces of text."""
    charsmap: bytes
    """The normalizer, as compiled."""
    trims: bool
    """White space at the ends is dropped, and of several spaces all but one."""

    @classmethod
    def read(cls, path: Path) -> "SentencePieces":
        """Read a `.spm` or `.model` file.

        Raises:
            SourceError: it is none, or of a kind other than Unigram and BPE.

        """
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2

        proto = sentencepiece_model_pb2.ModelProto()
        try:
            proto.ParseFromString(path.read_bytes())
        except (OSError, DecodeError) as error:
            raise SourceError(f"not a SentencePiece file ({error})", where=str(path)) from None
        kind = int(proto.trainer_spec.model_type)
        if kind not in {UNIGRAM, BPE}:
            raise SourceError("a SentencePiece model of words or characters is not supported", where=str(path))
        scores = {p.piece: float(p.score) for p in proto.pieces if p.type == _ORDINARY}
        rules = proto.normalizer_spec
        return cls(kind, scores, bytes(rules.precompiled_charsmap), bool(rules.remove_extra_whitespaces))


def marian_tokenizer(folder: Path, side: str = SOURCE_SIDE) -> "Tokenizer":
    """Return the tokenizer of a Marian folder: `source.spm` to read, `vocab.json` for ids and to write.

    With `side=TARGET_SIDE` it reads answers instead, as they are needed to learn from.

    Raises:
        SourceError: a file is missing or damaged.

    """
    if (folder / "target_vocab.json").exists():
        raise SourceError("a vocabulary of its own for each language is not supported", where=str(folder))
    vocabulary = _vocabulary(folder, ("</s>", "<unk>", "<pad>"))
    core = _core(SentencePieces.read(folder / side), vocabulary)
    core.post_processor = _ending("$A </s>", {"</s>": vocabulary["</s>"]})
    core.add_special_tokens(_special("</s>", "<unk>", "<pad>"))
    core.add_tokens(_marks(vocabulary))
    return core


def _marks(vocabulary: Mapping[str, int]) -> list[Any]:
    """Return the tokens that ask for a language (`>>deu<<`): read whole, with the space behind them."""
    from tokenizers import AddedToken

    marks = sorted((t for t in vocabulary if _MARK.fullmatch(t)), key=lambda t: vocabulary[t])
    return [AddedToken(t, special=False, normalized=False, rstrip=True) for t in marks]


def m2m100_tokenizer(folder: Path, languages: Mapping[str, int], source: str) -> "Tokenizer":
    """Return the tokenizer of an M2M100 folder for texts in the language whose token is `source` (`__en__`).

    `languages` has the ids of all such tokens, which follow those of `vocab.json`.

    Raises:
        SourceError: a file is missing or damaged.

    """
    vocabulary = _vocabulary(folder, ("<s>", "<pad>", "</s>", "<unk>"))
    core = _core(SentencePieces.read(folder / "sentencepiece.bpe.model"), vocabulary)
    core.add_special_tokens(_special("<s>", "<pad>", "</s>", "<unk>"))
    core.add_special_tokens(_special(*sorted(languages, key=lambda t: languages[t])))
    wrong = [t for t, i in languages.items() if core.token_to_id(t) != i]
    if wrong:
        raise SourceError(f"the language {wrong[0]} is not where it belongs", where=str(folder / "vocab.json"))
    ids = {source: languages[source], "</s>": vocabulary["</s>"]}
    core.post_processor = _ending(f"{source} $A </s>", ids)
    return core


def check_tokenizer(core: "Tokenizer", slow: Any, texts: Iterable[str]) -> dict[str, int]:
    """Hold a tokenizer to the one that transformers makes of the same files; returns the facts.

    Two readings of a text whose scores are equal (`0` and `00`, `00` and `0`) are a tie, which the libraries break
    by how they round.

    Raises:
        SourceError: the two give different ids for a text, or read ids back differently; shows the first.

    """
    scores, facts = _scores(core), {"texts": 0, "ties": 0}
    for text in texts:
        wanted, found = slow(text).input_ids, core.encode(text).ids
        facts["texts"] += 1
        if wanted != found:
            if not _is_tie(wanted, found, scores):
                raise SourceError(
                    f"the tokenizer.json made of its SentencePiece files reads {text!r} as {found}; transformers reads "
                    f"{wanted}",
                    where=str(getattr(slow, "name_or_path", "")),
                )
            facts["ties"] += 1
        written = slow.decode(wanted, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if written != core.decode(wanted):
            raise SourceError(f"the tokenizer.json writes {core.decode(wanted)!r}; transformers writes {written!r}")
    return facts


def _scores(core: "Tokenizer") -> list[float]:
    """Return the score of each id, none for a model without scores."""
    model = json.loads(core.to_str())["model"]
    return [float(score) for _, score in model["vocab"]] if model["type"] == "Unigram" else []


def _is_tie(one: list[int], other: list[int], scores: list[float]) -> bool:
    if not scores or len(one) != len(other):
        return False
    # Tokens of languages lie behind the vocabulary and have no score.
    a, b = (sum(scores[i] for i in ids if i < len(scores)) for ids in (one, other))
    # What single precision leaves of a sum of a few hundred.
    return abs(a - b) <= 1e-4


def _vocabulary(folder: Path, needed: tuple[str, ...]) -> dict[str, int]:
    table = read_table(folder / "vocab.json")
    missing = [t for t in needed if t not in table]
    if missing or sorted(table.values()) != list(range(len(table))):
        what = f"{missing[0]} is missing" if missing else "its ids are not 0, 1, 2 …"
        raise SourceError(what, where=str(folder / "vocab.json"), hint="the file is damaged")
    return table


def _core(pieces: SentencePieces, vocabulary: Mapping[str, int]) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers

    core = Tokenizer(_unigram(pieces, vocabulary) if pieces.kind == UNIGRAM else _bpe(pieces, vocabulary))
    steps: list[Any] = [normalizers.Precompiled(pieces.charsmap)] if pieces.charsmap else []
    if pieces.trims:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if pieces.kind == UNIGRAM:
        steps.append(normalizers.Replace(Regex(_unreadable(pieces, vocabulary)), _STAND_IN))
    core.normalizer = normalizers.Sequence(steps)
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
    # Only the ends of the whole text are trimmed, so the tokens are joined first.
    joined = [decoders.Metaspace(replacement=_SPACE, prepend_scheme="never"), decoders.Fuse()]
    core.decoder = decoders.Sequence([*joined, decoders.Replace(Regex("^ +| +$"), "")])
    return core


def _unigram(pieces: SentencePieces, vocabulary: Mapping[str, int]) -> Any:
    """Return the pieces under the ids of the vocabulary.

    A character that SentencePiece does not know stays as it is, and is then looked up in the vocabulary, which has the
    other language's too. So a piece made only of such characters may be chosen; other pieces of the other language may
    not.
    """
    from tokenizers.models import Unigram

    known = _characters(pieces)
    table = []
    for piece in sorted(vocabulary, key=lambda p: vocabulary[p]):
        foreign = not known & set(piece)
        table.append((piece, pieces.scores.get(piece, _LAST if foreign else _NEVER)))
    return Unigram(table, unk_id=vocabulary["<unk>"], byte_fallback=False)


def _unreadable(pieces: SentencePieces, vocabulary: Mapping[str, int]) -> str:
    """Return a pattern of what is one unknown token: two and more unknown characters that are no piece together."""
    known = _characters(pieces)
    foreign = f"[^{re.escape(''.join(sorted(known)))} ]"
    whole = [p for p in vocabulary if len(p) > 1 and not known & set(p) and not p.startswith("<")]
    kept = "".join(f"(?!{re.escape(p)}(?!{foreign}))" for p in sorted(whole))
    return f"(?<!{foreign}){kept}{foreign}{{2,}}"


def _characters(pieces: SentencePieces) -> set[str]:
    return {p for p in pieces.scores if len(p) == 1} | {_SPACE}


def _bpe(pieces: SentencePieces, vocabulary: Mapping[str, int]) -> Any:
    """Return the merges that the pieces came from: every way to make a piece of two others, the best piece first."""
    from tokenizers import models

    order = {piece: i for i, piece in enumerate(pieces.scores)}
    pairs = [
        (order[piece], order[piece[:i]], (piece[:i], piece[i:]))
        for piece in pieces.scores
        for i in range(1, len(piece))
        if piece[:i] in order and piece[i:] in order
    ]
    known = [pair for _, _, pair in sorted(pairs) if all(p in vocabulary for p in (*pair, "".join(pair)))]
    return models.BPE(dict(vocabulary), known, unk_token="<unk>", fuse_unk=True)  # noqa: S106 - no password


def _ending(template: str, ids: Mapping[str, int]) -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single=template, pair=template.replace("$A", "$A $B"), special_tokens=list(ids.items()))


def _special(*tokens: str) -> list[Any]:
    from tokenizers import AddedToken

    return [AddedToken(t, special=True, normalized=False) for t in tokens]
