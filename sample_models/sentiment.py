"""Sentiment of short reviews: which side a text is on, through negation and contrast, learned from a small grammar."""

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from sample_models._training import SEED, Row, SampleSpec, train_sample
from sample_models._words import invented, is_held_out

if TYPE_CHECKING:
    from converter.stage import Progress

SUMMARY = "a small BERT that tells positive from negative reviews (trained here, about a minute)"
EVAL = "eval.tsv"
N_TRAIN, N_HELD_OUT = 24000, 600

NOUNS = """
    movie film plot story acting ending cast script music soundtrack dialogue camera hotel room bed bathroom
    breakfast lobby restaurant food soup pizza dessert coffee waiter service staff phone screen battery keyboard
    laptop printer book chapter hero villain cover game level controller concert band singer museum guide tour
    beach pool garden driver taxi train seat
""".split()
HELD_OUT_NOUNS = """
    novel actor director kitchen pasta wine tablet charger poem album exhibition harbor ferry balcony sauna
""".split()
GOOD = """
    good great excellent wonderful superb brilliant delightful charming lovely fantastic amazing enjoyable
    pleasant perfect beautiful touching clever funny fresh impressive outstanding remarkable marvelous splendid
    satisfying reliable tasty warm
""".split()
BAD = """
    bad terrible awful horrible dreadful boring dull disappointing poor weak lousy annoying ugly tedious clumsy
    shallow stale mediocre pathetic unpleasant miserable broken dirty noisy bland overpriced sloppy forgettable
    useless cheap
""".split()
LIKE = "loved enjoyed adored admired liked".split()
DISLIKE = "hated disliked regretted despised loathed".split()
HOW = ["", "", "", "very", "really", "quite", "truly", "so", "rather", "simply", "surprisingly", "extremely"]
ASIDES = (
    "we went there on a monday .",
    "my sister came along .",
    "it lasted about two hours .",
    "i had read about it before .",
    "it was raining that day .",
    "there were {n} of us .",
    "i paid {n} dollars .",
    "this was my {n} th visit .",
)
# One clause, of a side: {n} a noun; {a} an adjective of that side, {z} of the other; {v} a verb of that side; {h} how.
PLAIN = (
    "the {n} is {h} {a}",
    "the {n} was {h} {a}",
    "the {n} looked {h} {a}",
    "i {v} the {n}",
    "we all {v} the {n}",
    "it is a {h} {a} {n}",
)
NEGATED = (
    "the {n} is not {z}",
    "the {n} was never {z}",
    "this is not a {z} {n}",
    "i would not call the {n} {z}",
    "nothing about the {n} is {z}",
)
# A whole text: {o} a clause of its own side, {x} one of the other side.
STRAIGHT = (
    "{o} .",
    "{o} !",
    "{o} , and {o} .",
)
CONTRAST = (
    "{x} , but {o} .",
    "although {x} , {o} .",
)
OPENERS = ("", "", "", "honestly ,", "in short ,", "to me", "my friends say", "as always ,")
TWIST = 0.3
"""Share of negated clauses, and of texts with a contrast: enough to matter; single words still teach first."""


def make(folder: Path, progress: "Progress") -> None:
    spec = SampleSpec(
        name="sentiment",
        summary=SUMMARY,
        task="text-classification",
        train=rows(N_TRAIN, held_out=False),
        held_out=rows(N_HELD_OUT, held_out=True),
        labels=("negative", "positive"),
        suffix=".tsv",
        epochs=2,
    )
    train_sample(spec, folder, progress)


def rows(count: int, *, held_out: bool) -> list[Row]:
    """Return `count` distinct reviews, as many of each side.

    The held-out ones have nouns, and pairs of frame and clauses, that the others never have.
    """
    rng = Random(SEED + held_out)
    made: dict[str, int] = {}
    while len(made) < count:
        label = len(made) % 2
        text = review(rng, label, held_out=held_out)
        if text is not None:
            made.setdefault(text, label)
    return [{"sentence": text, "label": label} for text, label in made.items()]


def review(rng: Random, label: int, *, held_out: bool) -> str | None:
    """Return one review; None where its frame and clauses belong to the other set."""
    frame = f"{rng.choice(OPENERS)} " + rng.choice(CONTRAST if rng.random() < TWIST else STRAIGHT)
    shapes = [rng.choice(NEGATED if rng.random() < TWIST else PLAIN) for _ in range(frame.count("{"))]
    if is_held_out(frame + "|".join(shapes)) != held_out:
        return None
    sides = iter(shapes)
    parts = [
        clause(rng, next(sides), label if part == "{o}" else 1 - label, held_out=held_out) if part[0] == "{" else part
        for part in frame.split()
    ]
    aside = rng.choice(ASIDES).format(n=rng.randint(2, 60)) if rng.random() < 0.2 else ""
    return " ".join(filter(None, [aside, *parts] if rng.random() < 0.5 else [*parts, aside]))


def clause(rng: Random, shape: str, side: int, *, held_out: bool) -> str:
    own, other = (GOOD, BAD) if side else (BAD, GOOD)
    noun = invented(rng, held_out=held_out) if rng.random() < 0.5 else rng.choice(HELD_OUT_NOUNS if held_out else NOUNS)
    choices = {"{a}": own, "{z}": other, "{v}": LIKE if side else DISLIKE, "{h}": HOW, "{n}": [noun]}
    return " ".join(filter(None, (rng.choice(choices.get(part, [part])) for part in shape.split())))
