"""A small GPT that tells short stories: taught on stories that a handful of sentences makes."""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from sample_models._training import SEED, Row
from sample_models._words import is_held_out
from sample_models._writers import Course, refuse_unlearned, seeded, teach, write_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from converter.stage import Progress

SUMMARY = "a small GPT-2 that tells short stories (trained here, a few minutes)"
EVAL = "eval.txt"
TRAIN = "train.txt"
N_TRAIN, N_HELD_OUT = 12000, 200
POSITIONS, VOCABULARY = 128, 640
LEAST_GAIN = 4.0
"""The perplexity of single tokens, by how often each occurs, over the model's."""
END = "<|endoftext|>"

HEROES = """
    Anna:she:her Paul:he:his Clara:she:her Felix:he:his Greta:she:her Jonas:he:his Mia:she:her Oscar:he:his
""".split()
ANIMALS = "dog cat horse fox owl rabbit mouse goat duck bear".split()
PLACES = "forest village harbor garden castle market mountain valley meadow island".split()
THINGS = "key lamp letter map coin ring book bell basket rope".split()
QUALITIES = "small old brave clever tired happy quiet hungry".split()
FOODS = "bread honey soup apples cheese cake berries milk".split()
WEATHER = "sunny rainy windy cold warm snowy foggy".split()
# {n} the hero, {s} he or she, {h} his or her, {a} an animal, {p} a place, {t} a thing, {q} a quality, {f} food, {w} the
# weather: each keeps its meaning through a story.
OPENINGS = (
    "Once upon a time there was a {q} child named {n} who lived near the {p}.",
    "{n} was a {q} child who lived near the {p}.",
    "One {w} day {n} walked to the {p}.",
    "It was a {w} day, and {n} was on the way to the {p}.",
)
MEETINGS = (
    "There {s} met a {a}.",
    "In the {p} {s} met a {a} that was looking for a {t}.",
    "Behind a tree {s} saw a {a}.",
    "A {a} came and asked {n} for help.",
)
MIDDLES = (
    "The {a} had lost a {t} and was very sad.",
    '"Please help me to find my {t}," said the {a}.',
    "{n} looked for the {t} all day long.",
    "Together {n} and the {a} went through the {p}.",
    "{n} gave the {a} some {f} because it was hungry.",
    "The {a} liked the {f} very much.",
    "Then it became {w} in the {p}, but {n} was not afraid.",
)
ENDINGS = (
    "At last {n} found the {t}, and the {a} was happy again.",
    "In the evening {n} went home with the {a} and ate {f}.",
    "{n} and the {a} were friends from that day on.",
    "The {a} thanked {n} and gave {h} friend the {t}.",
)


@dataclass(frozen=True)
class Size:
    """How large the model is, and how long it learns."""

    layers: int
    width: int
    course: Course


WHOLE = Size(layers=4, width=128, course=Course(steps=500, batch=16, rate=2e-3, warm_up=60))


def make(folder: Path, progress: "Progress") -> None:
    train(folder, progress, WHOLE, rows(N_TRAIN, held_out=False), rows(N_HELD_OUT, held_out=True))
    own, single = score(folder, progress)
    reached = f"perplexity {own:.2f} on held-out stories, where single tokens by their frequency have {single:.1f}"
    refuse_unlearned("storyteller", reached, good=own * LEAST_GAIN <= single)
    write_card(folder, "storyteller", SUMMARY, reached)


def train(folder: Path, progress: "Progress", size: Size, learned: list[Row], held_out: list[Row]) -> None:
    """Write model, tokenizer, `train.txt` and `eval.txt` into `folder`."""
    for name, stories_of in ((TRAIN, learned), (EVAL, held_out)):
        (folder / name).write_text("".join(f"{row['text']}\n" for row in stories_of), encoding="utf-8")
    tokenizer = make_tokenizer(learned)
    model = seeded(lambda: _model(tokenizer, size))
    stories = tokenizer([r["text"] for r in learned])["input_ids"]
    teach(model, _batches(stories, size.course.batch, tokenizer.eos_token_id), size.course, progress)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rows(count: int, *, held_out: bool) -> list[Row]:
    """Return `count` distinct stories; the held-out ones have heroes with animals and things that the others lack."""
    rng = Random(SEED + held_out)
    made: dict[str, None] = {}
    while len(made) < count:
        text, key = story(rng)
        if is_held_out(key) == held_out:
            made[text] = None
    return [{"text": text} for text in made]


def story(rng: Random) -> tuple[str, str]:
    """Return a story of four to six sentences, and who is in it with what."""
    name, she, her = rng.choice(HEROES).split(":")
    animal, thing = rng.choice(ANIMALS), rng.choice(THINGS)
    said = {"n": name, "s": she, "h": her, "a": animal, "t": thing, "p": rng.choice(PLACES)}
    said |= {"q": rng.choice(QUALITIES), "f": rng.choice(FOODS), "w": rng.choice(WEATHER)}
    middles = rng.sample(range(len(MIDDLES)), rng.randint(1, 3))
    shapes = [rng.choice(OPENINGS), rng.choice(MEETINGS), *(MIDDLES[i] for i in sorted(middles)), rng.choice(ENDINGS)]
    return " ".join(shape.format(**said) for shape in shapes), f"{name} {animal} {thing}"


def make_tokenizer(learned: list[Row]) -> Any:
    """Learn a byte-level BPE vocabulary, as GPT-2's is: any text can be spelled with it."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core: Any = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([r["text"] for r in learned], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=END, eos_token=END, model_max_length=POSITIONS
    )


def _model(tokenizer: Any, size: Size) -> Any:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return transformers.GPT2LMHeadModel(config)


def _batches(stories: list[list[int]], size: int, end: int) -> "Iterator[dict[str, Any]]":
    """Yield windows of stories that follow each other; every other one begins with a story, as users' texts do."""
    import torch

    rng = Random(SEED)
    stream = torch.tensor([token for story in stories for token in (*story, end)])
    starts = [0, *(torch.nonzero(stream == end)[:, 0] + 1).tolist()]
    last = len(stream) - POSITIONS
    starts = [start for start in starts if start <= last]
    while True:
        at = [rng.choice(starts) if i % 2 else rng.randrange(last + 1) for i in range(size)]
        ids = torch.stack([stream[i : i + POSITIONS] for i in at])
        yield {"input_ids": ids, "labels": ids}


def score(folder: Path, progress: "Progress") -> tuple[float, float]:
    """Return the perplexity of the saved model on held-out stories, and that of single tokens by their frequency."""
    from converter.data.files import read_examples
    from converter.model_folder.load import load_source
    from converter.reference import capture_reference

    source = load_source(str(folder))
    held_out = read_examples(folder / EVAL, source.task)
    reference = capture_reference(source, held_out[:2], progress, held_out)
    train_text = [e.text for e in read_examples(folder / TRAIN, source.task)]
    return reference.metric["perplexity"], unigram_perplexity(source.tokenizer, train_text, [e.text for e in held_out])


def unigram_perplexity(tokenizer: Any, counted: list[str], judged: list[str]) -> float:
    """Return the perplexity of texts under the frequency of each token (one more than it has) in others."""
    import numpy as np

    counts = np.ones(len(tokenizer))
    for ids in tokenizer(counted)["input_ids"]:
        np.add.at(counts, ids, 1)
    surprise = -np.log(counts / counts.sum())
    every = np.concatenate([surprise[ids[1:]] for ids in tokenizer(judged)["input_ids"]])
    return float(np.exp(every.mean()))
