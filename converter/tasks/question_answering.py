"""Question answering: the span of the context that answers the question (SQuAD's shape)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.columns import question_example
from converter.data.encode import encode_question
from converter.examples import Answer, Encoding, Example
from converter.graphs import BATCH, SEQUENCE, TensorSpec
from converter.scoring import metrics
from converter.task import Judged, Task

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from converter.data.probes import BuiltinText

LOGITS = ("start_logits", "end_logits")
MAX_ANSWER_TOKENS = 30
"""As in the evaluation scripts of transformers."""


@dataclass(frozen=True)
class Span:
    """The best span of the context, by characters; `null` where "no answer" scores higher (SQuAD 2.0).

    Two spans that are both null are the same answer: which words came second does not matter.
    """

    text: str
    start: int
    end: int
    null: bool

    def is_same(self, other: "Span") -> bool:
        return (self.null and other.null) or self == other


class QuestionAnswering(Task):
    name = "question-answering"
    architecture = "ForQuestionAnswering"
    auto_class = "AutoModelForQuestionAnswering"
    cuts_second = True
    metric_name = "f1"

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, "float32", (BATCH, SEQUENCE)) for name in LOGITS)

    @property
    def sample_kind(self) -> str:
        return "span"

    def builtin_text(self, text: "BuiltinText") -> tuple[Example, ...]:
        return (*text.questions(), *text.question_edges())

    def examples_of(self, row: Mapping[str, Any], where: str) -> tuple[Example, ...]:
        return (question_example(row, where),)

    def encode(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        return encode_question(tokenizer, example, max_length)

    def decisions(self, judged: Sequence[Judged]) -> list[Any]:
        return [best_span(j) for j in judged]

    def same(self, wanted: Any, found: Any) -> float:
        return float(wanted.is_same(found))

    def distinct(self, decisions: Sequence[Any]) -> int:
        return len({None if d.null else d for d in decisions})

    def describe(self, decision: Any, example: Example) -> str:
        return "no answer" if decision.null else f"{decision.text} ({decision.start}–{decision.end})"

    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Score as SQuAD 1.1 does; with "no answer" as an answer only where the data has such questions (2.0)."""
        labelled = [(j, j.example.label) for j in judged if isinstance(j.example.label, Answer)]
        if not labelled:
            return {}
        gold = [answer.texts for _, answer in labelled]
        with_null = not all(gold)
        spans = [best_span(j) for j, _ in labelled]
        found = ["" if with_null and span.null else span.text for span in spans]
        return {"f1": metrics.answer_f1(gold, found), "exact_match": metrics.exact_match(gold, found)}

    def chance(self, examples: Sequence[Example]) -> float:
        """The better of answering with the whole context and of never answering."""
        labelled = [(e, e.label) for e in examples if isinstance(e.label, Answer)]
        gold = [answer.texts for _, answer in labelled]
        return max(
            metrics.answer_f1(gold, [e.pair or "" for e, _ in labelled]), metrics.answer_f1(gold, [""] * len(gold))
        )

    def soft_loss(
        self,
        student: Mapping[str, "torch.Tensor"],
        teacher: Mapping[str, "torch.Tensor"],
        attention_mask: "torch.Tensor",
        temperature: float,
    ) -> "torch.Tensor":
        """KL of the start and of the end over a text's own tokens, padding shut out, mean of both."""
        from converter.training.losses import softened_kl

        padding = attention_mask == 0
        parts = [
            # A finite floor: -inf minus -inf would be NaN inside the divergence.
            softened_kl(student[n].masked_fill(padding, -1e4), teacher[n].masked_fill(padding, -1e4), temperature)
            for n in LOGITS
        ]
        return (parts[0] + parts[1]) / 2

    def hard_loss(
        self, outputs: Mapping[str, "torch.Tensor"], batch: Sequence[tuple[Example, Encoding]]
    ) -> "torch.Tensor | None":
        """Cross-entropy of the gold tokens; the first token (CLS) where the window does not hold the answer."""
        import torch
        import torch.nn.functional as F

        gold = [(i, token_span(e.label, enc)) for i, (e, enc) in enumerate(batch) if isinstance(e.label, Answer)]
        if not gold:
            return None
        rows = [i for i, _ in gold]
        mask = torch.zeros(outputs["start_logits"].shape, dtype=torch.bool)
        for i, (_, encoding) in enumerate(batch):
            mask[i, encoding.length :] = True
        total = torch.zeros(())
        for part, name in enumerate(LOGITS):
            logits = outputs[name].masked_fill(mask.to(outputs[name].device), -1e4)[rows]
            total = total.to(logits.device) + F.cross_entropy(
                logits, torch.tensor([span[part] for _, span in gold], device=logits.device)
            )
        return total / 2


def best_span(judged: Judged) -> Span:
    """Return the span of the largest start plus end logit, at most `MAX_ANSWER_TOKENS` long, inside the context."""
    encoding = judged.encoding
    start, end = judged.outputs["start_logits"], judged.outputs["end_logits"]
    inside = np.asarray([s == 1 for s in encoding.sequence_ids], dtype=bool)
    if not inside.any():
        return Span("", 0, 0, null=True)
    tokens = np.flatnonzero(inside)
    scores = _span_scores(start[tokens], end[tokens])
    first, last = np.unravel_index(int(np.argmax(scores)), scores.shape)
    context = judged.example.pair or ""
    begin, finish = encoding.offsets[tokens[first]][0], encoding.offsets[tokens[last]][1]
    piece = context[begin:finish]
    begin += len(piece) - len(piece.lstrip())  # tokens of some tokenizers carry the space before them
    null = bool(start[0] + end[0] > scores[first, last])
    return Span(piece.strip(), begin, begin + len(piece.strip()), null)


def _span_scores(start: "NDArray[np.float32]", end: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return start + end for every allowed pair of tokens, -inf for the others."""
    scores = start[:, None] + end[None, :]
    allowed = np.triu(np.tril(np.ones(scores.shape, dtype=bool), MAX_ANSWER_TOKENS - 1))
    return np.where(allowed, scores, -np.inf)


def token_span(answer: Answer, encoding: Encoding) -> tuple[int, int]:
    """Return first and last token of the first gold answer; (0, 0) where there is none or the window lacks it."""
    if not answer.texts or answer.starts[0] < 0 or not answer.texts[0]:
        return 0, 0
    begin, finish = answer.starts[0], answer.starts[0] + len(answer.texts[0])
    tokens = [t for t, s in enumerate(encoding.sequence_ids) if s == 1]
    covered = [t for t in tokens if encoding.offsets[t][0] < finish and encoding.offsets[t][1] > begin]
    if not covered or encoding.offsets[tokens[-1]][1] < finish:
        return 0, 0
    return covered[0], covered[-1]
