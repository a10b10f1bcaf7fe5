"""Persons, places and organizations in news-like sentences; names are invented, the sentence says what they name."""

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from sample_models._training import SEED, Row, SampleSpec, train_sample
from sample_models._words import invented, is_held_out

if TYPE_CHECKING:
    from converter.stage import Progress

SUMMARY = "a small BERT that tags persons, places and organizations (trained here, about a minute)"
EVAL = "eval.jsonl"
N_TRAIN, N_HELD_OUT = 8000, 500
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")

# P a person, L a place, G an organization; {d} a number, {w} a weekday.
CLAUSES = (
    "P works for G in L",
    "G opened an office in L",
    "P moved from L to L",
    "P , who was born in L , joined G",
    "G hired P last {w}",
    "the mayor of L met P",
    "the train from L to L is {d} minutes late",
    "P married P in L",
    "shares of G fell by {d} percent",
    "P left G after {d} years",
    "G and G will merge",
    "the river near L rose by {d} meters",
    "P wrote a letter to P",
    "about {d} people live in L",
    "the board of G asked P to stay",
    "P thanked the people of L",
    "G , based in L , sold {d} trucks",
    "the prices rose again",
    "nobody was hurt",
    "it rained for {d} days",
)
FRAMES = (
    "{c} .",
    "{c} , and {c} .",
    "on {w} {c} .",
    "{c} , while {c} .",
    "{c} , said P .",
    "in L {c} .",
    "{c} because {c} .",
)
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
PERSON_TITLES = ("Doctor", "Mrs", "Mr", "Professor")
PLACE_WORDS = ("New", "North", "Saint", "Port")
ORGANIZATION_WORDS = ("Bank", "Motors", "University", "Airlines", "Steel", "Group")


def make(folder: Path, progress: "Progress") -> None:
    spec = SampleSpec(
        name="entities",
        summary=SUMMARY,
        task="token-classification",
        train=rows(N_TRAIN, held_out=False),
        held_out=rows(N_HELD_OUT, held_out=True),
        labels=LABELS,
        lower_case=False,
        epochs=3,
    )
    train_sample(spec, folder, progress)


def rows(count: int, *, held_out: bool) -> list[Row]:
    """Return `count` sentences; the held-out ones have names, and pairs of frame and clauses, of their own."""
    rng = Random(SEED + held_out)
    made: list[Row] = []
    while len(made) < count:
        frame = rng.choice(FRAMES)
        clauses = [rng.choice(CLAUSES) for _ in range(frame.count("{c}"))]
        if is_held_out(frame + "|".join(clauses)) == held_out:
            made.append(sentence(rng, frame, clauses, held_out=held_out))
    return made


def sentence(rng: Random, frame: str, clauses: list[str], *, held_out: bool) -> Row:
    shape = frame
    for clause in clauses:
        shape = shape.replace("{c}", clause, 1)
    tokens: list[str] = []
    tags: list[str] = []
    for part in shape.format(d=rng.randint(2, 99), w=rng.choice(WEEKDAYS)).split():
        kind = {"P": "PER", "L": "LOC", "G": "ORG"}.get(part)
        words = name(rng, kind, held_out=held_out) if kind else [part]
        tokens += words
        tags += [f"B-{kind}", *[f"I-{kind}"] * (len(words) - 1)] if kind else ["O"]
    tokens[0] = tokens[0][0].upper() + tokens[0][1:]
    return {"tokens": tokens, "ner_tags": tags}


def name(rng: Random, kind: str, *, held_out: bool) -> list[str]:
    """Return the words of a name. Some say by themselves what they name; the others only the sentence tells."""
    first, second = (invented(rng, held_out=held_out).capitalize() for _ in range(2))
    telling = rng.random() < 0.4
    if kind == "PER":
        return [rng.choice(PERSON_TITLES), second] if telling else [first, second] if rng.random() < 0.6 else [first]
    if kind == "LOC":
        return [rng.choice(PLACE_WORDS), first] if telling else [first]
    return [first, rng.choice(ORGANIZATION_WORDS)] if telling else [first]
