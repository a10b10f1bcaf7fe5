"""Questions about short invented texts, answered by a span of the text: who, where, when, what."""

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from sample_models._training import SEED, Row, SampleSpec, train_sample
from sample_models._words import is_held_out

if TYPE_CHECKING:
    from converter.stage import Progress

SUMMARY = "a small BERT that finds the answer to a question in a text (trained here, about a minute)"
EVAL = "eval.jsonl"
N_TRAIN, N_HELD_OUT = 20000, 400

FIRST_NAMES = "Anna Bruno Clara David Elena Felix Greta Henry Irene Jonas Karin Louis".split()
PLACES = """
    Paris Rome Berlin Madrid Vienna Oslo Lisbon Dublin Prague Athens Geneva Milan Boston Chicago Denver Seattle Toronto
    Lima Cairo Delhi Tokyo Seoul Sydney Perth
""".split()
JOBS = """
    baker teacher doctor farmer painter pilot nurse sailor lawyer singer writer builder driver cook judge tailor
""".split()
THINGS = """
    bicycle camera guitar boat horse lamp clock piano table mirror carpet radio violin telescope
""".split()
# How a fact is told, and asked for: {p} is whom it is about, the answer stands in brackets. Several kinds have answers
# of one sort: the words around an answer decide, not the answer alone.
FACTS = (
    (
        ("{p} lives in [{place}]", "{p} has a house in [{place}]"),
        ("Where does {p} live ?", "Where is the house of {p} ?"),
    ),
    (("{p} came from [{place}]", "{p} grew up in [{place}]"), ("Where did {p} come from ?", "Where did {p} grow up ?")),
    (
        ("{p} was born in [{year}]", "the birth of {p} was in [{year}]"),
        ("When was {p} born ?", "In which year was {p} born ?"),
    ),
    (
        ("{p} married in [{year}]", "{p} had a wedding in [{year}]"),
        ("When did {p} marry ?", "In which year did {p} marry ?"),
    ),
    (
        ("{p} works as a [{job}]", "{p} earns money as a [{job}]"),
        ("What is the job of {p} ?", "What does {p} work as ?"),
    ),
    (("{p} bought a [{thing}]", "{p} paid for a [{thing}]"), ("What did {p} buy ?", "What was bought by {p} ?")),
    (("{p} sold a [{thing}]", "{p} gave away a [{thing}]"), ("What did {p} sell ?", "What was sold by {p} ?")),
)


def make(folder: Path, progress: "Progress") -> None:
    spec = SampleSpec(
        name="questions",
        summary=SUMMARY,
        task="question-answering",
        train=rows(N_TRAIN, held_out=False),
        held_out=rows(N_HELD_OUT, held_out=True),
        epochs=3,
        least=0.92,
    )
    train_sample(spec, folder, progress)


def rows(count: int, *, held_out: bool) -> list[Row]:
    """Return `count` questions; the held-out ones ask about pairs of person and answer that the others never have."""
    rng = Random(SEED + held_out)
    made: list[Row] = []
    while len(made) < count:
        row = question(rng, held_out=held_out)
        if row is not None:
            made.append(row)
    return made


def question(rng: Random, *, held_out: bool) -> Row | None:
    """Return a text of two or three facts and a question about one of them; None where it belongs to the other set."""
    people = rng.sample(FIRST_NAMES, rng.randint(2, 3))
    kinds = rng.sample(FACTS, len(people))
    asked = rng.randrange(len(people))
    context = ""
    start, answer = 0, ""
    for i, (person, (ways, _)) in enumerate(zip(people, kinds, strict=True)):
        before, _, rest = fact(rng, person, ways).partition("[")
        inside, _, after = rest.partition("]")
        if i == asked:
            start, answer = len(context) + len(before), inside
        context += f"{before}{inside}{after} . "
    if is_held_out(f"{people[asked]} {answer}") != held_out:
        return None
    text = rng.choice(kinds[asked][1]).format(p=people[asked])
    return {"question": text, "context": context.strip(), "answers": {"text": [answer], "answer_start": [start]}}


def fact(rng: Random, person: str, ways: tuple[str, ...]) -> str:
    return rng.choice(ways).format(
        p=person,
        place=rng.choice(PLACES),
        year=rng.randint(1900, 1999),
        job=rng.choice(JOBS),
        thing=rng.choice(THINGS),
    )
