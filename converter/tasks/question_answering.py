"""Question answering: the span of the context that answers the question (SQuAD's shape)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.columns import question_example
from converter.data.encode import WINDOW, encode_question, question_windows
from converter.examples import Answer, Encoding, Example
from converter.graphs import BATCH, SEQUENCE, TensorSpec
from converter.scoring import metrics
from converter.task import Judged, Task

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from converter.data.probes import BuiltinText

LOGITS = ("start_logits", "end_logits")
MAX_ANSWER_TOKENS = 15
"""As in transformers' pipeline."""


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
    """A context that is longer than a window is read in overlapping windows, and the best of their answers is taken.

    So does the pipeline of transformers 4.57 (`handle_impossible_answer=True, align_to_words=False`).
    """

    name = "question-answering"
    architecture = "ForQuestionAnswering"
    auto_class = "AutoModelForQuestionAnswering"
    cuts_second = True
    metric_name = "f1"
    usual_length = WINDOW
    windowed = True

    def column_names(self, roles: Collection[str]) -> dict[str, str]:
        return {"text": "question", "pair": "context", "label": "answers"}

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

    def windows(self, tokenizer: Any, example: Example, max_length: int) -> tuple[Example, ...]:
        n = len(question_windows(tokenizer, example.text, example.pair or "", max_length))
        return tuple(replace(example, window=i) for i in range(n))

    def decisions(self, judged: Sequence[Judged]) -> list[Any]:
        """Return a span for each; all windows of one text that are among `judged` have the same."""
        spans = {text: best_span(list(windows.values())) for text, windows in _texts(judged).items()}
        return [spans[_whole(j.example)] for j in judged]

    def same(self, wanted: Any, found: Any) -> float:
        return float(wanted.is_same(found))

    def distinct(self, decisions: Sequence[Any]) -> int:
        return len({None if d.null else d for d in decisions})

    def describe(self, decision: Any, example: Example) -> str:
        return "no answer" if decision.null else f"{decision.text} ({decision.start}–{decision.end})"

    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Score as SQuAD 1.1 does; with "no answer" as an answer only where the data has such questions (2.0)."""
        labelled = {e: w for e, w in _texts(judged).items() if isinstance(e.label, Answer)}
        if not labelled:
            return {}
        gold = [e.label.texts for e in labelled if isinstance(e.label, Answer)]
        with_null = not all(gold)
        spans = [best_span(list(windows.values())) for windows in labelled.values()]
        found = ["" if with_null and span.null else span.text for span in spans]
        return {"f1": metrics.answer_f1(gold, found), "exact_match": metrics.exact_match(gold, found)}

    def metric_notes(self, judged: Sequence[Judged]) -> list[str]:
        gold = [e.label.texts for e in _texts(judged) if isinstance(e.label, Answer)]
        if gold and not any(gold):
            return ["no question of the file has an answer: f1 says how often the model answers nothing"]
        return []

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


@dataclass(frozen=True)
class _Found:
    """The best answer of one window; probabilities are over the window's context and its first token."""

    text: str
    start: int
    probability: float
    null_probability: float


def best_span(windows: Sequence[Judged]) -> Span:
    """Return the likeliest span of a text, of at most `MAX_ANSWER_TOKENS` tokens, over its windows.

    The same words from several windows count together. It is `null` where "no answer" is likelier in every window.
    """
    found = [one for one in map(_best_of_window, windows) if one is not None]
    answers: dict[str, tuple[_Found, float]] = {}
    for one in found:
        first, total = answers.get(one.text.lower(), (one, 0.0))
        answers[one.text.lower()] = first, total + one.probability
    if not answers:
        return Span("", 0, 0, null=True)
    best, score = max(answers.values(), key=lambda a: a[1])
    null = min(one.null_probability for one in found) > score
    return Span(best.text, best.start, best.start + len(best.text), null)


def _best_of_window(judged: Judged) -> _Found | None:
    """Return the span of the largest start plus end logit; None where the window holds no context."""
    encoding = judged.encoding
    start, end = judged.outputs["start_logits"], judged.outputs["end_logits"]
    tokens = np.flatnonzero([s == 1 for s in encoding.sequence_ids])
    if not len(tokens):
        return None
    scores = _span_scores(start[tokens], end[tokens])
    first, last = np.unravel_index(int(np.argmax(scores)), scores.shape)
    context = judged.example.pair or ""
    begin, finish = encoding.offsets[tokens[first]][0], encoding.offsets[tokens[last]][1]
    piece = context[begin:finish]
    begin += len(piece) - len(piece.lstrip())  # tokens of some tokenizers carry the space before them
    judged_tokens = np.concatenate([[0], tokens])
    scale = _log_sum(start[judged_tokens]) + _log_sum(end[judged_tokens])
    return _Found(
        piece.strip(),
        begin,
        float(np.exp(float(scores[first, last]) - scale)),
        float(np.exp(float(start[0] + end[0]) - scale)),
    )


def _log_sum(logits: "NDArray[np.float32]") -> float:
    top = float(logits.max())
    return top + float(np.log(np.exp(logits.astype(np.float64) - top).sum()))


def _whole(example: Example) -> Example:
    return replace(example, window=0) if example.window else example


def _texts(judged: Sequence[Judged]) -> dict[Example, dict[int, Judged]]:
    """Return the windows of each text."""
    made: dict[Example, dict[int, Judged]] = {}
    for one in judged:
        made.setdefault(_whole(one.example), {})[one.example.window] = one
    return made


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
