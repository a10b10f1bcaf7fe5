"""Feature extraction: embeddings of texts, judged by which other text is nearest and by the similarity of pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.columns import LABELS, SCORES, as_number, label_cell, text_example
from converter.data.encode import encode_text
from converter.examples import Encoding, Example, Label
from converter.graphs import BATCH, SEQUENCE, TensorSpec
from converter.scoring import metrics
from converter.task import Judged, Outputs, Task

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

NEIGHBOR_ROOM = 0.01
"""Cosines this close are a tie: either text is as good a neighbour. Dynamic int8 of all-MiniLM-L6-v2 changes 4.5 % of
the nearest neighbours in STS-B, 1.7 % beyond this tie, while its correlation with people does not fall."""


@dataclass(frozen=True, eq=False)
class Neighbor:
    """The nearest other text (its index among those judged; -1: there is none), and the cosine to every text."""

    index: int
    cosines: "NDArray[np.float32]"


class FeatureExtraction(Task):
    """A pair of texts is two examples of one `group`: each is embedded alone, as a user does.

    Judged is `sentence_embedding` where the model has a sentence head, else the mean of `last_hidden_state` over all
    tokens (what sentence-transformers does with a folder that has no pooling of its own).
    """

    name = "feature-extraction"
    architecture = "Model"
    auto_class = "AutoModel"
    reads_pairs = False
    metric_name = "spearman"

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("last_hidden_state", "float32", (BATCH, SEQUENCE, int(self.config.hidden_size))),)

    @property
    def client_class(self) -> str:
        return "ORTModelForFeatureExtraction"

    @property
    def sample_kind(self) -> str:
        """A model with a sentence head gives its embedding itself."""
        return "tokens"

    def examples_of(self, row: Mapping[str, Any], where: str) -> tuple[Example, ...]:
        example = text_example(row, where, self.label_of)
        if example.pair is None:
            return (replace(example, label=None),)
        return (
            replace(example, pair=None, group=where),
            replace(example, text=example.pair, pair=None, where=f"{where}, second text", group=where),
        )

    def label_of(self, row: Mapping[str, Any]) -> Label:
        value = label_cell(row, (*SCORES, *LABELS))
        return None if value is None else as_number(value, "score")

    def encode(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        return encode_text(tokenizer, example, max_length, self.prompt)

    def decisions(self, judged: Sequence[Judged]) -> list[Any]:
        vectors = _unit(np.stack([embedding(j.outputs) for j in judged])) if judged else np.zeros((0, 1))
        cosines = vectors @ vectors.T
        ids = [j.encoding.inputs["input_ids"].tobytes() for j in judged]
        return [_nearest(i, row, ids) for i, row in enumerate(cosines)]

    def same(self, wanted: Any, found: Any) -> float:
        """Tell whether the found neighbour is, by the source's own cosines, as near as the nearest."""
        if wanted.cosines.shape != found.cosines.shape:
            raise ValueError("neighbours among other texts: compare decisions of the same texts")
        if wanted.index < 0 or found.index < 0:
            return float(wanted.index == found.index)
        return float(wanted.cosines[found.index] >= wanted.cosines[wanted.index] - NEIGHBOR_ROOM)

    def distinct(self, decisions: Sequence[Any]) -> int:
        """Count neighbours; 1 where all cosines are alike, so that any text would do."""
        if not decisions:
            return 0
        spread = max(float(np.ptp(d.cosines)) for d in decisions)
        return 1 if spread <= NEIGHBOR_ROOM else len({d.index for d in decisions})

    def describe(self, decision: Any, example: Example) -> str:
        if decision.index < 0:
            return "no other text"
        return f"nearest to text {decision.index} (cosine {decision.cosines[decision.index]:.3f})"

    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Correlate the cosine of pairs with their scores, as STS-B does."""
        pairs = _pairs(judged)
        if not pairs:
            return {}
        gold = [_score(a.example) for a, _ in pairs]
        found = [float(_unit(embedding(a.outputs)) @ _unit(embedding(b.outputs))) for a, b in pairs]
        return {"spearman": metrics.spearman(gold, found), "pearson": metrics.pearson(gold, found)}

    def metric_notes(self, judged: Sequence[Judged]) -> list[str]:
        scores = {_score(a.example) for a, _ in _pairs(judged)}
        return ["all pairs of the file have the same score: there is no order to find"] if len(scores) == 1 else []

    def chance(self, examples: Sequence[Example]) -> float:
        """A constant orders nothing."""
        return 0.0

    def soft_loss(
        self,
        student: Mapping[str, "torch.Tensor"],
        teacher: Mapping[str, "torch.Tensor"],
        attention_mask: "torch.Tensor",
        temperature: float,
    ) -> "torch.Tensor":
        """Cosine distance of the embeddings plus the relative squared error of the tokens; no temperature."""
        from converter.training.losses import cosine_distance, relative_mse

        real = attention_mask.bool()
        tokens = relative_mse(student["last_hidden_state"][real], teacher["last_hidden_state"][real])
        return tokens + cosine_distance(_torch_pooled(student, attention_mask), _torch_pooled(teacher, attention_mask))

    def hard_loss(
        self, outputs: Mapping[str, "torch.Tensor"], batch: Sequence[tuple[Example, Encoding]]
    ) -> "torch.Tensor | None":
        """Order the pairs that lie whole in the batch by their scores; None where there are fewer than two."""
        import torch
        import torch.nn.functional as F

        from converter.training.losses import order_loss

        rows = _group_rows([example for example, _ in batch])
        if len(rows) < 2:
            return None
        mask = torch.zeros(len(batch), outputs["last_hidden_state"].shape[1], dtype=torch.long)
        for i, (_, encoding) in enumerate(batch):
            mask[i, : encoding.length] = 1
        pooled = _torch_pooled(outputs, mask.to(outputs["last_hidden_state"].device))
        similarity = F.cosine_similarity(pooled[[a for a, _ in rows]], pooled[[b for _, b in rows]], dim=-1)
        gold = torch.tensor([_score(batch[a][0]) for a, _ in rows], device=similarity.device)
        return order_loss(similarity, gold)


def embedding(outputs: Outputs) -> "NDArray[np.float32]":
    """Return the embedding of one text: its own output, else the mean over tokens."""
    if "sentence_embedding" in outputs:
        return outputs["sentence_embedding"]
    return outputs["last_hidden_state"].mean(axis=0)


def _unit(vectors: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _nearest(i: int, cosines: "NDArray[np.float32]", ids: Sequence[bytes]) -> Neighbor:
    # A text with the same tokens has the same embedding: as a neighbour it would prove nothing.
    others = np.asarray([key != ids[i] for key in ids], dtype=bool)
    index = int(np.argmax(np.where(others, cosines, -np.inf))) if others.any() else -1
    return Neighbor(index, cosines)


def _group_rows(examples: Sequence[Example]) -> list[tuple[int, int]]:
    """Return the positions of both texts of every scored pair that is whole."""
    groups: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        if example.group and example.label is not None:
            groups.setdefault(example.group, []).append(i)
    return [(rows[0], rows[1]) for rows in groups.values() if len(rows) == 2]


def _pairs(judged: Sequence[Judged]) -> list[tuple[Judged, Judged]]:
    return [(judged[a], judged[b]) for a, b in _group_rows([j.example for j in judged])]


def _score(example: Example) -> float:
    assert isinstance(example.label, (int, float))
    return float(example.label)


def _torch_pooled(outputs: Mapping[str, "torch.Tensor"], attention_mask: "torch.Tensor") -> "torch.Tensor":
    if "sentence_embedding" in outputs:
        return outputs["sentence_embedding"]
    hidden = outputs["last_hidden_state"]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
