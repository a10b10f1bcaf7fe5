"""Tiny seeded models, saved as a user would have them: weights, config and a tokenizer that was really trained.

Every parameter is drawn anew (biases and norms too, so that a forgotten bias shows), large enough that different texts
get clearly different answers: a gate on a model that answers everything alike proves nothing.
"""

import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "albert", "electra", "mpnet", "deberta-v2", "modernbert")
TASKS = ("text-classification", "token-classification", "question-answering", "feature-extraction", "fill-mask")
MAX_LENGTH = 64
HIDDEN, HEADS, NEURONS = 32, 4, 64

SENTENCES = (
    "the movie was wonderful and the actors played with real warmth",
    "a dull and lifeless story that never finds its way",
    "i would watch this again tomorrow, it made me laugh",
    "terrible sound, terrible light, and nobody seems to care",
    "Anna Miller moved from Berlin to New York in 2019",
    "the bank of the river was green after the rain",
    "how many people live in the old town?",
    "about 4000 people live in the old town near the lake",
    "Who wrote the letter to Doctor Brown?",
    "the letter to Doctor Brown was written by his sister Clara",
    "prices fell by 3.5 percent while wages did not change",
    "please turn off the light when you leave the room",
    "le café est très bon, mais il est trop cher",
    "der Zug nach München fährt um acht Uhr ab",
    "el perro corre por la playa con su amigo",
    "this is not good, not bad, just something to pass the time",
    "unbelievable! what a goal in the last minute of the game",
    "the committee of Acme Corporation meets in Paris on Monday",
    "water boils at one hundred degrees and freezes at zero",
    "she sells old books and new maps in a small shop",
)
"""What the tokenizers are trained on, good as probes and calibration too: 9 to 40 tokens each."""

_HEAD_CLASS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
}
_TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")


def write_text(file: Path, n: int, *, labels: bool = True, seed: int = 0) -> Path:
    """Write drawn texts of the tiny models' words, labelled at random."""
    rng = random.Random(seed)
    words = [word for sentence in SENTENCES for word in sentence.split()]
    rows = [" ".join(rng.choices(words, k=rng.randint(4, 12))) for _ in range(n)]
    head = "sentence\tlabel\n" if labels else "sentence\n"
    file.write_text(head + "".join(f"{row}\t{rng.randint(0, 2)}\n" if labels else f"{row}\n" for row in rows), "utf-8")
    return file


def make_tiny(
    folder: Path,
    family: str = "bert",
    task: str = "text-classification",
    num_labels: int = 3,
    seed: int = 0,
    layers: int = 3,
    **config: Any,
) -> Path:
    """Save a tiny model to `folder` (made where absent) and return it; `config` overrules config.json's values."""
    tokenizer = make_tokenizer(family)
    labels = _TAGS[:num_labels] if task == "token-classification" else [f"class {i}" for i in range(num_labels)]
    made = _configs()[family](len(tokenizer), tokenizer.pad_token_id, layers)
    if task in {"text-classification", "token-classification"}:
        made.id2label = dict(enumerate(labels))
        made.label2id = {name: i for i, name in enumerate(labels)}
    for key, value in config.items():
        setattr(made, key, value)
    return save_tiny(folder, made, tokenizer, task, seed)


def save_tiny(folder: Path, config: Any, tokenizer: Any, task: str, seed: int = 0) -> Path:
    """Save a model of any `config` with drawn weights, and its tokenizer."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    model = getattr(transformers, _HEAD_CLASS[task]).from_config(config).eval()
    _draw_weights(model, seed)
    if task in {"text-classification", "token-classification"}:
        _center_logits(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def draw_classifier(model: Any, tokenizer: Any, seed: int = 0) -> None:
    """Draw every parameter of a model that classifies, such that each class is the answer to some text."""
    _draw_weights(model, seed)
    _center_logits(model, tokenizer)


def make_tiny_sentence_transformer(
    folder: Path, family: str = "bert", seed: int = 0, *, normalize: bool = True, layers: int = 3
) -> Path:
    """Save a tiny sentence-transformers folder: transformer, mean pooling and, if wanted, normalization."""
    make_tiny(folder, family, "feature-extraction", seed=seed, layers=layers)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    _write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    for path, _ in modules[1:]:
        (folder / path).mkdir(exist_ok=True)
    _write(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": HIDDEN,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "5.7.0"}})
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def _draw_weights(model: Any, seed: int) -> None:
    """Draw every parameter: matrices keep the scale of what passes through them, embeddings have unit variance."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight): m for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if id(parameter) in embeddings:
                parameter.copy_(noise)
                padding = embeddings[id(parameter)].padding_idx
                if padding is not None:
                    parameter[padding] = 0
            elif parameter.dim() > 1:
                parameter.copy_(noise * 1.5 / math.sqrt(parameter.shape[-1]))
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.1)
            else:
                parameter.copy_(1 + noise * 0.1)


def _center_logits(model: Any, tokenizer: Any) -> None:
    """Shift the last bias so that every class wins for some text: the drawn one may always choose the same."""
    import torch

    feed = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    accepted = {"input_ids", "attention_mask", *({"token_type_ids"} if model.config.model_type != "distilbert" else ())}
    with torch.no_grad():
        logits = model(**{k: v for k, v in feed.items() if k in accepted}).logits
        last = next(
            m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == model.config.num_labels
        )
        if logits.dim() == 3:
            logits = logits[feed["attention_mask"].bool()]
        last.bias -= logits.mean(dim=0)


def _configs() -> dict[str, Callable[[int, int, int], Any]]:
    import transformers as t

    common = {
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "intermediate_size": NEURONS,
        "max_position_embeddings": MAX_LENGTH,
    }
    # RoBERTa and its kin count positions from the padding id on.
    shifted = common | {"max_position_embeddings": MAX_LENGTH + 2}

    def of(cls: Any, table: dict[str, Any]) -> Callable[[int, int, int], Any]:
        return lambda vocab, pad, layers: cls(vocab_size=vocab, pad_token_id=pad, num_hidden_layers=layers, **table)

    return {
        "bert": of(t.BertConfig, common),
        "distilbert": lambda vocab, pad, layers: t.DistilBertConfig(
            vocab_size=vocab,
            pad_token_id=pad,
            dim=HIDDEN,
            n_heads=HEADS,
            n_layers=layers,
            hidden_dim=NEURONS,
            max_position_embeddings=MAX_LENGTH,
        ),
        "roberta": of(t.RobertaConfig, shifted | {"type_vocab_size": 1, "bos_token_id": 0, "eos_token_id": 2}),
        "xlm-roberta": of(t.XLMRobertaConfig, shifted | {"type_vocab_size": 1, "bos_token_id": 0, "eos_token_id": 2}),
        "albert": of(t.AlbertConfig, common | {"embedding_size": 16, "bos_token_id": 2, "eos_token_id": 3}),
        "electra": of(t.ElectraConfig, common | {"embedding_size": 16}),
        "mpnet": of(t.MPNetConfig, shifted | {"bos_token_id": 0, "eos_token_id": 2}),
        # As DeBERTa-v3: no token types, log buckets, keys shared between content and position.
        "deberta-v2": of(
            t.DebertaV2Config,
            common
            | {
                "type_vocab_size": 0,
                "relative_attention": True,
                "position_buckets": 16,
                "pos_att_type": ["p2c", "c2p"],
                "share_att_key": True,
                "norm_rel_ebd": "layer_norm",
                "position_biased_input": False,
                "max_relative_positions": -1,
            },
        ),
        # A window of 8, so that texts of a dozen tokens already tell local from global attention.
        "modernbert": of(
            t.ModernBertConfig,
            common
            | {
                "local_attention": 8,
                "bos_token_id": 0,
                "eos_token_id": 2,
                "cls_token_id": 0,
                "sep_token_id": 2,
            },
        ),
    }


@dataclass(frozen=True)
class _Marks:
    """Special tokens of one kind of tokenizer, in the order of their ids, and the template of a pair."""

    cls: str
    sep: str
    pad: str
    unk: str
    mask: str
    order: tuple[str, ...]
    pair_gap: int = 1
    """Separators between two texts."""


_BERT = _Marks("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
_ALBERT = _Marks("[CLS]", "[SEP]", "<pad>", "<unk>", "[MASK]", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))
_DEBERTA = _Marks("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"))
_ROBERTA = _Marks("<s>", "</s>", "<pad>", "<unk>", "<mask>", ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), pair_gap=2)
_MODERN = _Marks("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"))

_TOKENIZERS = {
    "bert": ("wordpiece", _BERT, True),
    "distilbert": ("wordpiece", _BERT, False),
    "electra": ("wordpiece", _BERT, True),
    "mpnet": ("wordpiece", _ROBERTA, False),
    "roberta": ("bytes", _ROBERTA, False),
    "modernbert": ("bytes", _MODERN, False),
    "xlm-roberta": ("unigram", _ROBERTA, False),
    "albert": ("unigram", _ALBERT, True),
    "deberta-v2": ("unigram", _DEBERTA, True),
}
"""Kind, special tokens, and whether it makes token type ids."""


def make_tokenizer(family: str) -> Any:
    """Return a fast tokenizer of the family's kind, trained on `SENTENCES`."""
    from transformers import BertTokenizer, PreTrainedTokenizerFast

    kind, marks, types = _TOKENIZERS[family]
    core = _train(kind, marks)
    named = {
        "cls_token": marks.cls,
        "sep_token": marks.sep,
        "pad_token": marks.pad,
        "unk_token": marks.unk,
        "mask_token": marks.mask,
        "model_max_length": MAX_LENGTH,
    }
    if family == "bert":
        return BertTokenizer(vocab=core.get_vocab(), do_lower_case=True, **named)
    names = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=names, **named)


def _train(kind: str, marks: _Marks) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = list(marks.order)
    if kind == "wordpiece":
        core = Tokenizer(models.WordPiece(_word_pieces(special), unk_token=marks.unk))
        core.normalizer = normalizers.BertNormalizer(lowercase=True)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.decoder = decoders.WordPiece()
        core.add_special_tokens(special)
    elif kind == "bytes":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        core.train_from_iterator(SENTENCES * 4, trainer)
    else:
        scores = _unigram_scores(special)
        core = Tokenizer(models.Unigram(scores, unk_id=special.index(marks.unk), byte_fallback=False))
        core.normalizer = normalizers.NFKC()
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
        core.add_special_tokens(special)
    gap = " ".join([f"{marks.sep}:0", f"{marks.sep}:1"][: marks.pair_gap])
    core.post_processor = processors.TemplateProcessing(
        single=f"{marks.cls}:0 $A:0 {marks.sep}:0",
        pair=f"{marks.cls}:0 $A:0 {gap} $B:1 {marks.sep}:1",
        special_tokens=[(t, core.token_to_id(t)) for t in (marks.cls, marks.sep)],
    )
    return core


def _word_pieces(special: list[str]) -> dict[str, int]:
    """Return letters, endings and two words in three (the WordPiece trainer gives another vocabulary each run)."""
    from tokenizers.normalizers import BertNormalizer

    words = _words(BertNormalizer(lowercase=True).normalize_str(" ".join(SENTENCES)))
    endings = sorted({w[-n:] for w in words for n in (2, 3) if len(w) > n + 1})
    kept = [w for i, w in enumerate(words) if i % 3 and len(w) > 1]
    pieces = [*special, *_letters(words), *(f"##{x}" for x in (*_letters(words), *endings)), *kept]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}


def _unigram_scores(special: list[str]) -> list[tuple[str, float]]:
    """Return the same kinds of pieces with log probabilities, longer ones cheaper than what they are made of."""
    words = _words(" ".join(SENTENCES))
    letters = [x for letter in _letters(words) for x in (letter, f"\u2581{letter}")]
    endings = sorted({w[-n:] for w in words for n in (2, 3) if len(w) > n + 1})
    kept = [f"\u2581{w}" for i, w in enumerate(words) if i % 3 and len(w) > 1]
    scored = dict.fromkeys(special, 0.0) | {"\u2581": -6.0} | dict.fromkeys(letters, -6.0)
    return list((scored | dict.fromkeys([*endings, *kept], -7.0)).items())


def _words(text: str) -> list[str]:
    return sorted(set(re.findall(r"\w+|[^\w\s]", text)))


def _letters(words: list[str]) -> list[str]:
    return sorted({c for w in words for c in w} | set("abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"))
