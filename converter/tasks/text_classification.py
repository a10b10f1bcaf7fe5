"""Text classification: one or two texts; single-label, multi-label, or one score (regression)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from converter.data.encode import encode_text
from converter.errors import DataError
from converter.examples import Encoding, Example, Label
from converter.graphs import BATCH, TensorSpec
from converter.scoring.logits import LogitsKind, MultiLabel, Score, ScoreLogits, logits_kind_of
from converter.task import Judged, NoClientForm, Task

if TYPE_CHECKING:
    import torch

    from converter.data.probes import BuiltinText

PAIR_LABELS = frozenset(
    {"entailment", "contradiction", "not_entailment", "duplicate", "not_duplicate", "equivalent", "not_equivalent"}
)
"""Labels of heads that judge pairs of texts."""


class TextClassification(Task):
    """Decisions are a class index, a frozenset of them (multi-label) or a `Score` (regression)."""

    name = "text-classification"
    architecture = "ForSequenceClassification"
    auto_class = "AutoModelForSequenceClassification"
    has_labels = True

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("logits", "float32", (BATCH, len(self.labels))),)

    @property
    def sample_kind(self) -> str:
        match self.logits_kind:
            case MultiLabel():
                return "multi"
            case ScoreLogits():
                return "score"
            case _:
                return "classes"

    def mediapipe_scores(self) -> str:
        if len(self.labels) < 2:
            raise NoClientForm("MediaPipe has no task for regression with one score")
        match self.logits_kind:
            case MultiLabel():
                return "LOGISTIC"
            case ScoreLogits():
                raise NoClientForm("MediaPipe has no task for regression scores")
            case _:
                return "SOFTMAX"

    def builtin_text(self, text: "BuiltinText") -> tuple[Example, ...]:
        if PAIR_LABELS & {label.lower() for label in self.labels}:
            return (*text.pairs(), *text.pair_edges())
        scores = text.pairs() if len(self.labels) == 1 else ()
        return (*text.texts(), *scores, *text.text_edges(), *text.pair_edges())

    @property
    def metric_name(self) -> str:
        return self.logits_kind.metric_name

    @cached_property
    def labels(self) -> tuple[str, ...]:
        names = self.config.id2label  # each look into a configuration of transformers takes microseconds
        return tuple(str(names[i]) for i in range(self.config.num_labels))

    @property
    def label_kind(self) -> str:
        return self.logits_kind.label_kind

    @cached_property
    def logits_kind(self) -> LogitsKind:
        return logits_kind_of(self.config, self.labels)

    def label_of(self, row: Mapping[str, Any]) -> Label:
        return self.logits_kind.label_of(row)

    def encode(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        return encode_text(tokenizer, example, max_length, self.prompt)

    def decisions(self, judged: Sequence[Judged]) -> list[Any]:
        return self.logits_kind.decisions([j.outputs["logits"] for j in judged])

    def same(self, wanted: Any, found: Any) -> float:
        return float(wanted.near(found) if isinstance(wanted, Score) else wanted == found)

    def distinct(self, decisions: Sequence[Any]) -> int:
        return len({d.values if isinstance(d, Score) else d for d in decisions})

    def describe(self, decision: Any, example: Example) -> str:
        if isinstance(decision, frozenset):
            return ", ".join(self.labels[i] for i in sorted(decision)) or "no label"
        return str(decision) if isinstance(decision, Score) else self.labels[decision]

    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        labelled = [j for j in judged if j.example.label is not None]
        if not labelled:
            return {}
        return self.logits_kind.metric([j.example.label for j in labelled], [j.outputs["logits"] for j in labelled])

    def metric_notes(self, judged: Sequence[Judged]) -> list[str]:
        labelled = [j for j in judged if j.example.label is not None]
        return self.logits_kind.metric_notes(
            [j.example.label for j in labelled], [j.outputs["logits"] for j in labelled]
        )

    def chance(self, examples: Sequence[Example]) -> float:
        return self.logits_kind.chance([e.label for e in examples if e.label is not None])

    def check_labels(self, examples: Sequence[Example]) -> None:
        logits_kind = self.logits_kind
        for example in examples:
            if example.label is not None and (fault := logits_kind.fault(example.label)):
                raise DataError(fault, where=example.where, hint=f"its labels: {', '.join(self.labels[:20])}")

    def soft_loss(
        self,
        student: Mapping[str, "torch.Tensor"],
        teacher: Mapping[str, "torch.Tensor"],
        attention_mask: "torch.Tensor",
        temperature: float,
    ) -> "torch.Tensor":
        return self.logits_kind.soft_loss(student["logits"], teacher["logits"], temperature)

    def hard_loss(
        self, outputs: Mapping[str, "torch.Tensor"], batch: Sequence[tuple[Example, Encoding]]
    ) -> "torch.Tensor | None":
        rows = [i for i, (example, _) in enumerate(batch) if example.label is not None]
        if not rows:
            return None
        return self.logits_kind.hard_loss(outputs["logits"][rows], [batch[i][0].label for i in rows])
