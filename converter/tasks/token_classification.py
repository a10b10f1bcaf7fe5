"""Token classification: one tag a word, from the first of its tokens."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.columns import tags_of, words_example
from converter.data.encode import encode_words
from converter.errors import DataError, nearest
from converter.examples import Encoding, Example, Label
from converter.graphs import BATCH, SEQUENCE, TensorSpec
from converter.scoring import metrics
from converter.task import Judged, Task

if TYPE_CHECKING:
    import torch

OUTSIDE = "O"


class TokenClassification(Task):
    """Decisions are the tags of a text's words: its own `words`, else what the tokenizer takes for words.

    A word that truncation cut off, or that has no token, counts as `O`.
    """

    name = "token-classification"
    architecture = "ForTokenClassification"
    auto_class = "AutoModelForTokenClassification"
    reads_pairs = False
    has_labels = True

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("logits", "float32", (BATCH, SEQUENCE, len(self.labels))),)

    @property
    def sample_kind(self) -> str:
        return "tags"

    @property
    def metric_name(self) -> str:
        """F1 of entities where the tags are of entities, else (parts of speech) the share of right tags."""
        return "f1" if self._has_entities else "accuracy"

    @cached_property
    def labels(self) -> tuple[str, ...]:
        names = self.config.id2label  # each look into a configuration of transformers takes microseconds
        return tuple(str(names[i]) for i in range(self.config.num_labels))

    @property
    def label_kind(self) -> str:
        return "tags"

    def column_names(self, roles: Collection[str]) -> dict[str, str]:
        return {"text": "tokens" if "label" in roles else "text", "pair": "sentence2", "label": "ner_tags"}

    @property
    def _has_entities(self) -> bool:
        return OUTSIDE in self.labels or any(label[:2] in {"B-", "I-"} for label in self.labels)

    def examples_of(self, row: Mapping[str, Any], where: str) -> tuple[Example, ...]:
        return (words_example(row, where, self.label_of),)

    def label_of(self, row: Mapping[str, Any]) -> Label:
        tags = tags_of(row)
        return None if tags is None else tuple(self._tag(tag) for tag in tags)

    def _tag(self, tag: Any) -> str:
        """Return a tag's name; data that holds indices means the model's own."""
        if isinstance(tag, str) and tag in self.labels:
            return tag
        if str(tag).isdecimal() and int(tag) < len(self.labels):
            return self.labels[int(tag)]
        hint = f"{nearest(str(tag), self.labels)}; --label-map FILE says which tag of the data is which of the model's"
        raise ValueError(f"tag {tag!r} is not one of the model's tags", hint)

    def encode(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        return encode_words(tokenizer, example, max_length)

    def decisions(self, judged: Sequence[Judged]) -> list[Any]:
        return [self._tags(j) for j in judged]

    def _tags(self, judged: Judged) -> tuple[str, ...]:
        first = first_tokens(judged.encoding)
        words = judged.example.words
        n_words = len(words) if words is not None else max(first, default=-1) + 1
        best = np.argmax(judged.outputs["logits"], axis=-1)
        return tuple(self.labels[int(best[first[i]])] if i in first else OUTSIDE for i in range(n_words))

    def decision_in(self, decision: Any, laid_out: Judged, new_ids: Mapping[int, int]) -> Any:
        """Tags of the words that both read: more tokens a word let fewer words into a text that is cut."""
        found = self._tags(laid_out)
        return decision if len(found) == len(decision) else found

    def same(self, wanted: Any, found: Any) -> float:
        if len(wanted) != len(found):
            raise ValueError(f"the tags of {len(wanted)} words against those of {len(found)}")
        return float(np.mean([a == b for a, b in zip(wanted, found, strict=True)])) if wanted else 1.0

    def distinct(self, decisions: Sequence[Any]) -> int:
        return len({tag for tags in decisions for tag in tags})

    def describe(self, decision: Any, example: Example) -> str:
        if example.words is None or not self._has_entities:
            return " ".join(decision)
        found = metrics.entities(decision)
        return ", ".join(f"{kind}: {' '.join(example.words[a:b])}" for kind, a, b in found) or "no entity"

    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        labelled = [j for j in judged if j.example.label is not None]
        if not labelled:
            return {}
        gold = [_tags_of(j.example) for j in labelled]
        found = self.decisions(labelled)
        share = {"accuracy": metrics.tag_accuracy(gold, found)}
        return {**metrics.entity_scores(gold, found), **share} if self._has_entities else share

    def metric_notes(self, judged: Sequence[Judged]) -> list[str]:
        gold = {tag for j in judged if j.example.label is not None for tag in _tags_of(j.example)}
        if gold == {OUTSIDE} and self._has_entities:
            return ["no word of the file is of an entity: f1 is 0 whatever the model answers"]
        return []

    def chance(self, examples: Sequence[Example]) -> float:
        """The best of answering the same tag for every word."""
        gold = [_tags_of(e) for e in examples if e.label is not None]
        if not self._has_entities:
            counts = Counter(tag for tags in gold for tag in tags)
            return max(counts.values()) / counts.total()
        constant = [[[label] * len(tags) for tags in gold] for label in self.labels]
        return max(metrics.entity_scores(gold, found)["f1"] for found in constant)

    def check_labels(self, examples: Sequence[Example]) -> None:
        for example in examples:
            wrong = sorted(set(_tags_of(example)) - set(self.labels)) if example.label is not None else []
            if wrong:
                raise DataError(
                    f"tag {wrong[0]!r} is not one of the model's tags",
                    where=example.where,
                    hint=nearest(str(wrong[0]), self.labels),
                )

    def soft_loss(
        self,
        student: Mapping[str, "torch.Tensor"],
        teacher: Mapping[str, "torch.Tensor"],
        attention_mask: "torch.Tensor",
        temperature: float,
    ) -> "torch.Tensor":
        """KL at every real token: the tokens that no tag is read from teach as well."""
        from converter.training.losses import softened_kl_of_tokens

        return softened_kl_of_tokens(student["logits"], teacher["logits"], attention_mask, temperature)

    def hard_loss(
        self, outputs: Mapping[str, "torch.Tensor"], batch: Sequence[tuple[Example, Encoding]]
    ) -> "torch.Tensor | None":
        import torch
        import torch.nn.functional as F

        logits = outputs["logits"]
        index = {label: i for i, label in enumerate(self.labels)}
        gold = torch.full(logits.shape[:2], -100)
        for row, (example, encoding) in enumerate(batch):
            tags = _tags_of(example) if example.label is not None else ()
            for word, token in first_tokens(encoding).items():
                if word < len(tags):
                    gold[row, token] = index[tags[word]]
        if not bool((gold >= 0).any()):
            return None
        return F.cross_entropy(logits.flatten(0, 1), gold.flatten().to(logits.device))


def first_tokens(encoding: Encoding) -> dict[int, int]:
    """Return the first token of each word that has one."""
    found: dict[int, int] = {}
    for token, word in enumerate(encoding.word_ids):
        if word is not None:
            found.setdefault(word, token)
    return found


def _tags_of(example: Example) -> tuple[str, ...]:
    assert isinstance(example.label, tuple)
    return tuple(str(tag) for tag in example.label)
