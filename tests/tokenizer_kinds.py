"""Small tokenizers of every kind that models have, trained on generated text, for the tests of device tables.

Each has the normalizer, the pre-tokenizer, the model, the template and the decoder of the models that it is named for.
"""

import io
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from tests.tiny import SENTENCES

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SIGN = "\u2581"
LETTERS = "abcdefghijklmnopqrstuvwxyzäöüßéèñçøåабвгдежзиклмнопрстуαβγδελμνоб東京都文字한국어हिनदी"


def corpus(count: int = 600, seed: int = 5, words: int = 400) -> Iterator[str]:
    """Yield sentences: words of the tests' own, and made-up words that come again and again."""
    rng = random.Random(seed)
    made_up = ["".join(rng.choices(LETTERS, k=rng.randrange(1, 9))) for _ in range(words)]
    own = [w for s in SENTENCES for w in s.split()]
    for _ in range(count):
        chosen = rng.choices(made_up, k=5) + rng.choices(own, k=7) + [str(rng.randrange(5000))]
        rng.shuffle(chosen)
        yield " ".join(w.capitalize() if rng.random() < 0.2 else w for w in chosen) + rng.choice(".?! ")


def _template(core: Any, single: str, pair: str, *special: str) -> Any:
    from tokenizers import processors

    ids = [(t, core.token_to_id(t)) for t in special]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def byte_level(
    *,
    normalizer: Any = None,
    pattern: str | None = None,
    prefix: bool = False,
    digits: bool = False,
    size: int = 1200,
    special: tuple[str, ...] = ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    ignore_merges: bool = False,
    words: int = 400,
) -> Any:
    """Return byte-level BPE: GPT-2's, unless a pattern is given."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    core: Any = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    steps += [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not pattern))
    if normalizer is not None:
        core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        corpus(max(600, words), words=words),
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(special),
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    core.post_processor = (
        processors.RobertaProcessing(("</s>", core.token_to_id("</s>")), ("<s>", core.token_to_id("<s>")))
        if prefix
        else _template(core, "<s> $A", "<s> $A <s> $B:1", "<s>")
    )
    return core


def sentence_piece_bpe(style: str, size: int = 1500) -> Any:
    """Return SentencePiece's BPE with byte fallback, as `llama`, `gemma` or `mistral` have it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<unk>", "<s>", "</s>"]
    trained: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(SIGN, prepend_scheme="always")
    in_bytes = [f"<0x{b:02X}>" for b in range(256)]
    trained.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=size, special_tokens=[*special, *in_bytes], show_progress=False)
    )
    import json

    table = json.loads(trained.to_str())
    merges = [tuple(pair) for pair in table["model"]["merges"]]
    core: Any = Tokenizer(
        models.BPE(table["model"]["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if style == "llama":
        core.normalizer = normalizers.Sequence([normalizers.Prepend(SIGN), normalizers.Replace(" ", SIGN)])
    elif style == "gemma":
        core.normalizer = normalizers.Replace(" ", SIGN)
        core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(SIGN, prepend_scheme="first", split=False)
    steps = [decoders.Replace(SIGN, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, *([] if style == "gemma" else [decoders.Strip(" ", 1, 0)])])
    core.add_special_tokens(special)
    core.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<start_of_turn>", normalized=True)])
    core.post_processor = _template(core, "<s> $A", "<s> $A <s> $B:1", "<s>")
    return core


@cache
def charsmap(rule: str = "nmt_nfkc") -> bytes:
    """Return the precompiled normalizer that SentencePiece brings."""
    import tempfile
    from pathlib import Path

    import sentencepiece

    from converter.model_folder.sentencepiece_tokenizer import SentencePieces

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=made,
        vocab_size=60,
        model_type="unigram",
        normalization_rule_name=rule,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.model"
        path.write_bytes(made.getvalue())
        return SentencePieces.read(path).charsmap


def unigram(style: str, size: int = 900, words: int = 400) -> Any:
    """Return Unigram as `t5`, `xlm-roberta`, `albert` or `deberta-v2` have it, with SentencePiece's own normalizer."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    marks = {"t5": ("<pad>", "</s>", "<unk>"), "xlm-roberta": ("<s>", "<pad>", "</s>", "<unk>")}
    special = list(marks.get(style, ("<pad>", "<unk>", "[CLS]", "[SEP]")))
    core: Any = Tokenizer(models.Unigram())
    precompiled = normalizers.Precompiled(charsmap("nmt_nfkc_cf" if style == "deberta-v2" else "nmt_nfkc"))
    squeezed = normalizers.Replace(Regex(" {2,}"), " ")
    metaspace = pre_tokenizers.Metaspace(SIGN, prepend_scheme="always")
    parts: dict[str, tuple[list[Any], list[Any]]] = {
        "t5": ([precompiled, normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), SIGN)], [metaspace]),
        "xlm-roberta": ([precompiled, squeezed], [pre_tokenizers.WhitespaceSplit(), metaspace]),
        "albert": (
            [
                normalizers.Replace("``", '"'),
                normalizers.Replace("''", '"'),
                normalizers.NFKD(),
                normalizers.StripAccents(),
                normalizers.Lowercase(),
                precompiled,
                squeezed,
            ],
            [metaspace],
        ),
        "deberta-v2": (
            [normalizers.Strip(), precompiled, squeezed],
            [pre_tokenizers.Punctuation("isolated"), metaspace],
        ),
    }
    before, cut = parts[style]
    core.normalizer, core.pre_tokenizer = normalizers.Sequence(before), pre_tokenizers.Sequence(cut)
    core.decoder = decoders.Metaspace(SIGN, prepend_scheme="always")
    core.train_from_iterator(
        corpus(max(600, words), words=words),
        trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    mask = AddedToken("<extra_id_0>" if style == "t5" else "[MASK]", lstrip=True, normalized=False)
    core.add_special_tokens([*special, mask])
    shapes = {
        "t5": ("$A </s>", "$A </s> $B </s>", "</s>"),
        "xlm-roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>", "<s>", "</s>"),
    }
    core.post_processor = _template(
        core, *shapes.get(style, ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]"))
    )
    return core


def _nfc() -> Any:
    from tokenizers import normalizers

    return normalizers.NFC()


KINDS: dict[str, Callable[[], Any]] = {
    "gpt2": byte_level,
    "roberta": lambda: byte_level(prefix=True),
    "llama3": lambda: byte_level(pattern=LLAMA3, ignore_merges=True),
    "qwen2": lambda: byte_level(normalizer=_nfc(), pattern=QWEN2),
    "gpt4o": lambda: byte_level(pattern=O200K),
    "modernbert": lambda: byte_level(normalizer=_nfc()),
    "starcoder": lambda: byte_level(digits=True),
    "llama": lambda: sentence_piece_bpe("llama"),
    "gemma": lambda: sentence_piece_bpe("gemma"),
    "mistral": lambda: sentence_piece_bpe("mistral"),
    "t5": lambda: unigram("t5"),
    "xlm-roberta": lambda: unigram("xlm-roberta"),
    "albert": lambda: unigram("albert"),
    "deberta-v2": lambda: unigram("deberta-v2"),
}
"""What each of these models has."""


@cache
def tokenizer_json(kind: str) -> str:
    """Return the tokenizer.json of a kind, made once."""
    made: str = KINDS[kind]().to_str()
    return made


@cache
def tables_of(kind: str) -> Any:
    """Return the tables of a kind, asked for once."""
    from tokenizers import Tokenizer

    from converter.device.tables import read_tables

    return read_tables(Tokenizer.from_str(tokenizer_json(kind)))


def random_texts(count: int, seed: int, special: tuple[str, ...] = ()) -> list[str]:
    """Return letters, scripts, marks, controls and whatever else Unicode has, with special tokens typed among them."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        chars = []
        for _ in range(rng.randrange(1, 24)):
            c = rng.choice((rng.randrange(128), rng.randrange(0x600), rng.randrange(0x3000), rng.randrange(0x110000)))
            if not 0xD800 <= c < 0xE000:
                chars.append(chr(c))
        chars.insert(
            rng.randrange(len(chars) + 1), rng.choice((*special, "the", " ", "  don't ", "e\u0301", "ﬁ\u0301"))
        )
        made.append("".join(chars))
    return made
