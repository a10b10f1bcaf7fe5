"""Text to judge by: an even sample of what the user gives, else our own sentences, and edge cases always."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from converter.examples import Example

if TYPE_CHECKING:
    from converter.artifact import TorchModel

EDGE = "built-in edge case: "
"""How `where` of an edge case begins: what no sample of ordinary text holds, but users type."""
LEAST_TEXTS = 80
"""So many texts are kept even where few fit the vocabulary: one decision is then about one percent."""
MOST_UNKNOWN = 0.3
MOST_TOKENS_PER_BYTE = 0.4
"""English takes about 0.2 tokens a byte in its own vocabulary, a foreign script spelled byte by byte up to 1."""
LONG_TOKENS = 512
"""Longest edge case that is not cut; a text beyond the limit is tried where the limit is at most twice this."""
ODD_TEXTS = {
    "empty": "",
    "spaces": "   ",
    "one character": "a",
    "punctuation": "?!... --- ((( )))",
    "digits": "3.14159, 2,718,281 and 007; 12:45; 1e-9; +49 30 1234567",
    "emoji": "😀🎉👍🏽❤️🇰🇪",
    "emoji in a sentence": "I love this 😍 but the price 💸 made me cry 😭",
    "accents": "Çà et là, José's naïve Zoë ate crème brûlée in Łódź, Århus and Tromsø.",
    "combining accents": "cafe\u0301 nin\u0303o Zu\u0308rich",
    "Chinese": "这部电影非常好看，我很喜欢。",
    "right to left": "كان الفيلم رائعا، و the ending was good, הסרט היה נהדר.",
    "one long word": "Donaudampfschifffahrtsgesellschaft" * 8,
    "one word repeated": "very " * 60 + "good",
    "line breaks and tabs": "First line.\nSecond line.\r\n\tThird line, indented.",
    "markup": "<p>Fish &amp; chips</p> [SEP] <b>bold</b> https://example.org/a?b=c#d",
    "zero-width and control characters": "zero\u200bwidth \u00adsoft\u00a0hyphen \x07bell",
}


@dataclass(frozen=True)
class BuiltinText:
    """The text that comes with the tool, as far as the vocabulary of `model` spells it; a task takes what fits it.

    Edge cases are kept whatever the vocabulary.
    """

    model: "TorchModel"

    def of(self, texts: Sequence[str]) -> tuple[Example, ...]:
        """Return a task's own sentences as examples, all of them."""
        return tuple(Example(text, where="built-in") for text in texts)

    def texts(self) -> tuple[Example, ...]:
        return _texts(self.model)

    def pairs(self) -> tuple[Example, ...]:
        return _pairs()

    def questions(self) -> tuple[Example, ...]:
        return _questions(self.model)

    def text_edges(self) -> tuple[Example, ...]:
        return _text_edges(self.model)

    def pair_edges(self) -> tuple[Example, ...]:
        return _pair_edges(self.model)

    def question_edges(self) -> tuple[Example, ...]:
        return _question_edges(self.model)


def builtin_examples(model: "TorchModel") -> tuple[Example, ...]:
    """Return our own text in the shape that the model's task takes, edge cases last."""
    return model.task.builtin_text(BuiltinText(model))


def choose_probes(given: Sequence[Example], builtin: Sequence[Example], limit: int) -> tuple[Example, ...]:
    """Return up to `limit` examples, evenly over `given` (else `builtin`) and in its order, then the edge cases.

    The same input gives the same probes. Edge cases are of the given data's shape: no pairs where it has none.
    """
    edges = [e for e in builtin if is_edge(e)]
    ordinary = given or [e for e in builtin if not is_edge(e)]
    with_pairs = any(e.pair is not None for e in ordinary)
    alone = any(e.pair is None for e in ordinary)
    fitting = [e for e in edges if (with_pairs if e.pair is not None else alone)]
    return (*even_sample(ordinary, limit), *fitting)


def calibration_texts(given: Sequence[Example], builtin: Sequence[Example], limit: int) -> tuple[Example, ...]:
    """Return up to `limit` examples, evenly over `given`, else over built-in text; never an edge case.

    What is rare by intent would widen the measured ranges for all other text.
    """
    return even_sample(given or [e for e in builtin if not is_edge(e)], limit)


def even_sample(examples: Sequence[Example], limit: int) -> tuple[Example, ...]:
    """Return `limit` examples at even distances; those of one group come together or not at all."""
    units: dict[str | int, list[Example]] = {}
    for i, example in enumerate(examples):
        units.setdefault(example.group or i, []).append(example)
    groups = list(units.values())
    wanted = min(len(groups), max(1, limit * len(groups) // max(1, len(examples))))
    chosen = groups if limit >= len(examples) else [groups[i * len(groups) // wanted] for i in range(wanted)]
    return tuple(example for group in chosen for example in group)


def is_edge(example: Example) -> bool:
    return example.where.startswith(EDGE)


def fit(tokenizer: Any, text: str) -> tuple[float, float]:
    """Return the share of unknown tokens and the tokens a byte: how badly a vocabulary spells a text."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    unknown = sum(i == tokenizer.unk_token_id for i in ids) / max(1, len(ids))
    return unknown, len(ids) / max(1, len(text.encode()))


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    content = files("converter.data").joinpath("builtin_text.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in content.splitlines())


def builtin_sentences() -> tuple[str, ...]:
    """Return our own sentences, whatever a vocabulary makes of them."""
    return tuple(row["text"] for row in _of_kind("text"))


def _of_kind(kind: str) -> Iterable[dict[str, Any]]:
    return (row for row in _rows() if row["kind"] == kind)


def _texts(model: "TorchModel") -> tuple[Example, ...]:
    texts = [row["text"] for row in _of_kind("text")]
    return tuple(Example(text, where="built-in") for text in _fitting(model.tokenizer, texts, texts))


def _questions(model: "TorchModel") -> tuple[Example, ...]:
    made = [(question, row["context"]) for row in _of_kind("question") for question in row["questions"]]
    kept = _fitting(model.tokenizer, made, [context for _, context in made])
    return tuple(Example(question, context, where="built-in") for question, context in kept)


def _pairs() -> tuple[Example, ...]:
    rows = [(row["text"], row["pair"]) for row in _of_kind("pair")]
    # Both ways round: what follows from what is another question, and it makes 80 of 40.
    return tuple(Example(a, b, where="built-in") for pair in rows for a, b in (pair, pair[::-1]))


def _fitting(tokenizer: Any, items: Sequence[Any], texts: Sequence[str]) -> list[Any]:
    """Keep what the vocabulary spells; where that is little, the best spelled up to `LEAST_TEXTS`, in order."""
    fits = [fit(tokenizer, text) for text in texts]
    good = {
        i for i, (unknown, spelled) in enumerate(fits) if unknown <= MOST_UNKNOWN and spelled <= MOST_TOKENS_PER_BYTE
    }
    if len(good) < LEAST_TEXTS:
        good |= set(sorted(range(len(fits)), key=lambda i: (i not in good, fits[i], i))[:LEAST_TEXTS])
    return [item for i, item in enumerate(items) if i in good]


def _text_edges(model: "TorchModel") -> tuple[Example, ...]:
    return tuple(Example(text, where=EDGE + name) for name, text in (ODD_TEXTS | _long_texts(model)).items())


def _pair_edges(model: "TorchModel") -> tuple[Example, ...]:
    long = _long_texts(model)
    plain = "The weather was good, and the train was on time."
    made = {
        "both texts empty": ("", ""),
        "second text empty": (plain, ""),
        "first text empty": ("", plain),
        "the same text twice": (plain, plain),
        "emoji in the second text": (plain, ODD_TEXTS["emoji in a sentence"]),
        "other scripts in the first text": (ODD_TEXTS["right to left"], plain),
        **{f"second text: {name}": (plain, text) for name, text in long.items()},
    }
    return tuple(Example(a, b, where=EDGE + name) for name, (a, b) in made.items())


def _question_edges(model: "TorchModel") -> tuple[Example, ...]:
    long = _long_texts(model)
    question, context = "What was good?", "The weather was good, and the train was on time."
    made = {
        "empty question": ("", context),
        "empty context": (question, ""),
        "one-word context": (question, "Weather"),
        "emoji in the context": ("What made me cry?", ODD_TEXTS["emoji in a sentence"]),
        "accents": ("Who ate?", ODD_TEXTS["accents"]),
        "other scripts": (question, ODD_TEXTS["right to left"]),
        "line breaks and tabs": ("Which line is indented?", ODD_TEXTS["line breaks and tabs"]),
        **{f"context {name}": (question, f"{text} {context}") for name, text in long.items()},
    }
    if model.max_length <= LONG_TOKENS * 2:
        made["question beyond the limit"] = (list(long.values())[-1], context)
    return tuple(Example(q, c, where=EDGE + name) for name, (q, c) in made.items())


def _long_texts(model: "TorchModel") -> dict[str, str]:
    """Make ordinary text that just fits and, where that is affordable, text that must be cut."""
    made = {"near the limit": _of_length(model, min(model.max_length, LONG_TOKENS))}
    if model.max_length <= LONG_TOKENS * 2:
        made["beyond the limit"] = _of_length(model, model.max_length * 3 // 2)
    return made


def _of_length(model: "TorchModel", n_tokens: int) -> str:
    """Join sentences, again and again from the start, to as many whole words as `n_tokens` tokens hold."""
    sentences = [row["text"] for row in _of_kind("text") if row["lang"] == "en"]
    words = [word for sentence in sentences for word in sentence.split()]
    while len(words) < n_tokens:
        words += words
    enough = " ".join(words[:n_tokens])
    encoded = model.tokenizer(enough, truncation=True, max_length=n_tokens)
    last = max((end for _, end in encoded.encodings[0].offsets), default=0)
    cut = enough[:last].rpartition(" ")[0]
    return cut or enough[:last]
