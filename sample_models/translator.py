"""A translator from simple English to German: Marian, six layers each way, taught on sentences that a grammar makes."""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from sample_models._grammar import sentence
from sample_models._training import SEED, Row, write_rows
from sample_models._words import is_held_out
from sample_models._writers import (
    NO_LOSS,
    Course,
    batches_of,
    padded,
    refuse_unlearned,
    seeded,
    teach,
    write_card,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from converter.stage import Progress

SUMMARY = "a small Marian that translates simple English into German (trained here, a few minutes)"
EVAL = "eval.tsv"
N_TRAIN, N_HELD_OUT = 24000, 200
PIECES = 400
"""Most pieces of each language's vocabulary."""
LEAST_BLEU, MOST_COPIED = 0.6, 0.1
"""What it must reach, and what the English text itself may reach."""
END, UNKNOWN, PAD = "</s>", "<unk>", "<pad>"


@dataclass(frozen=True)
class Size:
    """How large the model is, and how long it learns."""

    layers: int
    width: int
    course: Course


WHOLE = Size(layers=6, width=128, course=Course(steps=900, batch=48, rate=1e-3))


def make(folder: Path, progress: "Progress") -> None:
    train(folder, progress, WHOLE, rows(N_TRAIN, held_out=False), rows(N_HELD_OUT, held_out=True))
    bleu, copied = score(folder, progress)
    reached = f"BLEU {100 * bleu:.1f} on held-out sentences, where the English itself gets {100 * copied:.1f}"
    refuse_unlearned("translator", reached, good=bleu >= LEAST_BLEU and copied <= MOST_COPIED)
    write_card(folder, "translator", SUMMARY, reached)


def train(folder: Path, progress: "Progress", size: Size, learned: list[Row], held_out: list[Row]) -> None:
    """Write model, tokenizer, `train.tsv` and `eval.tsv` into `folder`."""
    write_rows(folder / "train.tsv", learned)
    write_rows(folder / EVAL, held_out)
    tokenizer = make_tokenizer(folder, learned)
    model = seeded(lambda: _model(tokenizer, size))
    read = tokenizer([r["source"] for r in learned])["input_ids"]
    written = tokenizer(text_target=[r["target"] for r in learned])["input_ids"]
    pairs = list(zip(read, written, strict=True))
    teach(model, _batches(pairs, size.course.batch, tokenizer.pad_token_id), size.course, progress)
    model.save_pretrained(folder)


def rows(count: int, *, held_out: bool) -> list[Row]:
    """Return `count` distinct pairs; the held-out ones are about what nobody does to anything in the others."""
    rng = Random(SEED + held_out)
    made: dict[str, str] = {}
    while len(made) < count:
        english, german, key = sentence(rng)
        if is_held_out(key) == held_out:
            made.setdefault(english, german)
    return [{"source": english, "target": german} for english, german in made.items()]


def make_tokenizer(folder: Path, learned: list[Row]) -> Any:
    """Learn a SentencePiece vocabulary of each language, and write Marian's files."""
    import transformers

    pieces = [_pieces(folder / f"{n}.spm", [r[n] for r in learned]) for n in ("source", "target")]
    vocabulary = list(dict.fromkeys([END, UNKNOWN, *pieces[0], *pieces[1], PAD]))
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(vocabulary)}, ensure_ascii=False))
    tokenizer = transformers.MarianTokenizer(
        source_spm=str(folder / "source.spm"),
        target_spm=str(folder / "target.spm"),
        vocab=str(folder / "vocab.json"),
        source_lang="en",
        target_lang="de",
        model_max_length=128,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _pieces(path: Path, texts: list[str]) -> list[str]:
    import io

    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=made,
        vocab_size=PIECES,
        hard_vocab_limit=False,
        model_type="unigram",
        unk_id=1,
        bos_id=-1,
        eos_id=0,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(made.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    return [model.id_to_piece(i) for i in range(len(model))]


def _model(tokenizer: Any, size: Size) -> Any:
    import transformers

    vocabulary, pad, end = len(tokenizer.get_vocab()), tokenizer.pad_token_id, tokenizer.eos_token_id
    config = transformers.MarianConfig(
        vocab_size=vocabulary,
        decoder_vocab_size=vocabulary,
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4 * size.width,
        decoder_ffn_dim=4 * size.width,
        max_position_embeddings=128,
        activation_function="swish",
        scale_embedding=True,
        dropout=0.0,
        init_std=size.width**-0.5 / 2,
        pad_token_id=pad,
        eos_token_id=end,
        decoder_start_token_id=pad,
        forced_eos_token_id=end,
    )
    model = transformers.MarianMTModel(config)
    model.generation_config.bad_words_ids = [[pad]]
    model.generation_config.max_length = 128
    return model


def _batches(pairs: list[Any], size: int, pad: int) -> "Iterator[dict[str, Any]]":
    for batch in batches_of(pairs, size, Random(SEED)):
        ids = padded([read for read, _ in batch], pad)
        labels = padded([written for _, written in batch], NO_LOSS)
        yield {"input_ids": ids, "attention_mask": (ids != pad).long(), "labels": labels}


def score(folder: Path, progress: "Progress") -> tuple[float, float]:
    """Return BLEU (0..1) on held-out sentences of the saved model, and what copying the English would get."""
    from converter.data.files import read_examples
    from converter.model_folder.load import load_source
    from converter.reference import capture_reference
    from converter.scoring.references import bleu

    source = load_source(str(folder))
    held_out = read_examples(folder / EVAL, source.task)
    reference = capture_reference(source, held_out[:2], progress, held_out)
    copied = bleu([[r["target"]] for r in rows(len(held_out), held_out=True)], [e.text for e in held_out])
    return reference.metric["bleu"], copied
