"""Fill-mask: the token behind each mask."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.columns import LABELS, label_cell
from converter.data.encode import encode_masked
from converter.examples import Encoding, Example, Label
from converter.graphs import BATCH, SEQUENCE, VOCABULARY, TensorSpec
from converter.scoring import metrics
from converter.task import Judged, Outputs, Task

if TYPE_CHECKING:
    import torch

    from converter.data.probes import BuiltinText

MASKED = (
    "The capital of France is [MASK].",
    "She drinks a cup of [MASK] every morning.",
    "The [MASK] of the story is hard to [MASK].",
    "[MASK] is the largest planet of our solar system.",
    "He opened the [MASK] and looked outside.",
    "Two plus two is [MASK].",
)


class FillMask(Task):
    """Decisions are the most likely token ids, one a mask.

    A text without a mask gets some at fixed positions (`encode_masked`), so that any text file serves: what was hidden
    is its label.
    """

    name = "fill-mask"
    architecture = "ForMaskedLM"
    auto_class = "AutoModelForMaskedLM"
    reads_pairs = False
    metric_name = "accuracy"

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("logits", "float32", (BATCH, SEQUENCE, VOCABULARY)),)

    @property
    def sample_kind(self) -> str:
        return "mask"

    def builtin_text(self, text: "BuiltinText") -> tuple[Example, ...]:
        return (*text.of(MASKED), *text.texts(), *text.text_edges())

    def label_of(self, row: Mapping[str, Any]) -> Label:
        """Return the words behind the masks; none given: what stands in the text."""
        value = label_cell(row, LABELS)
        return () if value is None else tuple(str(value).split())

    def encode(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        return encode_masked(tokenizer, example, max_length)

    def compared(self, outputs: Outputs, encoding: Encoding) -> Outputs:
        """Keep the masks' logits: a vocabulary at every token of every probe does not fit memory.

        A text without a mask (empty, or cut off) keeps its first token's, so that it is still compared.
        """
        rows = [position for position, _ in encoding.masked] or [0]
        return {"logits": outputs["logits"][rows].copy()}

    def decisions(self, judged: Sequence[Judged]) -> list[Any]:
        return [_best(j) for j in judged]

    def same(self, wanted: Any, found: Any) -> float:
        return float(np.mean([a == b for a, b in zip(wanted, found, strict=True)])) if wanted else 1.0

    def decision_in(self, decision: Any, laid_out: Judged, new_ids: Mapping[int, int]) -> Any:
        """Tokens by their new ids; -1, which no model answers, for one that is gone."""
        return tuple(new_ids.get(token, -1) for token in decision)

    def distinct(self, decisions: Sequence[Any]) -> int:
        return len({token for tokens in decisions for token in tokens})

    def describe(self, decision: Any, example: Example) -> str:
        return "token " + ", ".join(str(i) for i in decision) if decision else "no mask"

    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        gold: list[int] = []
        found: list[int] = []
        for j in judged:
            for (_, wanted), made in zip(j.encoding.masked, _best(j), strict=True):
                if wanted >= 0 and j.example.label is not None:
                    gold.append(wanted)
                    found.append(made)
        return {"accuracy": metrics.accuracy(gold, found)} if gold else {}

    def chance(self, examples: Sequence[Example]) -> float:
        """The commonest word, always: what stands behind a mask is a word of such text."""
        words = Counter(w for e in examples for w in e.text.lower().split())
        return max(words.values()) / words.total() if words else 0.0

    def soft_loss(
        self,
        student: Mapping[str, "torch.Tensor"],
        teacher: Mapping[str, "torch.Tensor"],
        attention_mask: "torch.Tensor",
        temperature: float,
    ) -> "torch.Tensor":
        """KL at every real token: the teacher's guess is known at all of them, not at the masks alone."""
        from converter.training.losses import softened_kl_of_tokens

        return softened_kl_of_tokens(student["logits"], teacher["logits"], attention_mask, temperature)

    def hard_loss(
        self, outputs: Mapping[str, "torch.Tensor"], batch: Sequence[tuple[Example, Encoding]]
    ) -> "torch.Tensor | None":
        import torch
        import torch.nn.functional as F

        gold = [(row, pos, token) for row, (_, enc) in enumerate(batch) for pos, token in enc.masked if token >= 0]
        if not gold:
            return None
        rows, positions, tokens = (list(column) for column in zip(*gold, strict=True))
        logits = outputs["logits"][rows, positions]
        return F.cross_entropy(logits, torch.tensor(tokens, device=logits.device))


def _best(judged: Judged) -> tuple[int, ...]:
    rows = judged.outputs["logits"][: len(judged.encoding.masked)]
    return tuple(int(i) for i in np.argmax(rows, axis=-1))
