"""Text classification: one or two texts; single-label, multi-label, or one score (regression)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.encode import encode_text
from converter.errors import DataError
from converter.examples import Encoding, Example
from converter.task import Judged, Task

if TYPE_CHECKING:
    import torch


class TextClassification(Task):
    name = "text-classification"
    architecture = "ForSequenceClassification"
    auto_class = "AutoModelForSequenceClassification"
    model_outputs = ("logits",)
    metric_name = "accuracy"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.config.id2label[i] for i in range(self.config.num_labels))

    def encode(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        return encode_text(tokenizer, example, max_length)

    def decisions(self, judged: Sequence[Judged]) -> list[Any]:
        return [int(np.argmax(j.outputs["logits"])) for j in judged]

    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        labelled = [j for j in judged if j.example.label is not None]
        if not labelled:
            return {}
        hits = [d == j.example.label for d, j in zip(self.decisions(labelled), labelled, strict=True)]
        return {"accuracy": float(np.mean(hits))}

    def chance(self, examples: Sequence[Example]) -> float:
        counts = Counter(e.label for e in examples if e.label is not None)
        return max(counts.values()) / counts.total()

    def check_labels(self, examples: Sequence[Example]) -> None:
        for example in examples:
            if example.label is not None and example.label not in range(self.config.num_labels):
                raise DataError(
                    f"label {example.label!r} is none of the model's {self.config.num_labels}",
                    where=example.where,
                    hint=f"its labels: {', '.join(self.labels)}",
                )

    def soft_loss(
        self,
        student: Mapping[str, "torch.Tensor"],
        teacher: Mapping[str, "torch.Tensor"],
        attention_mask: "torch.Tensor",
        temperature: float,
    ) -> "torch.Tensor":
        import torch.nn.functional as F

        wanted = F.log_softmax(teacher["logits"] / temperature, dim=-1)
        found = F.log_softmax(student["logits"] / temperature, dim=-1)
        return F.kl_div(found, wanted, log_target=True, reduction="batchmean") * temperature**2

    def hard_loss(
        self, outputs: Mapping[str, "torch.Tensor"], batch: Sequence[tuple[Example, Encoding]]
    ) -> "torch.Tensor | None":
        import torch
        import torch.nn.functional as F

        rows = [i for i, (example, _) in enumerate(batch) if example.label is not None]
        if not rows:
            return None
        gold = torch.tensor([batch[i][0].label for i in rows])
        return F.cross_entropy(outputs["logits"][rows], gold)
