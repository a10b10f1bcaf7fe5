"""What a row of logits says: a class, a set of classes or a score. Each kind decides, scores and trains its own way."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.columns import LABELS, SCORES, LabelCells, Row, as_number, label_cell, label_list
from converter.examples import Label
from converter.scoring import metrics

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

SCORE_ROOM = 0.025
"""Scores agree within this share of the source's range: an eighth of a point on the five-point scale of STS-B, where
people differ by more."""


class LogitsKind(ABC):
    """How the logits of a sequence classifier are read; `labels` are its classes."""

    metric_name: str
    label_kind = ""
    """`class` or `classes` where a row's label is one or several of the class names."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    @abstractmethod
    def label_of(self, row: Row) -> Label:
        """Return the label of a data row, None where it has none; `ValueError(message, hint)` where it is wrong."""

    @abstractmethod
    def fault(self, label: Label) -> str:
        """Say why `label` cannot be one of this model's; empty where it can."""

    @abstractmethod
    def decisions(self, logits: "Sequence[NDArray[np.float32]]") -> list[Any]: ...

    @abstractmethod
    def metric(self, gold: Sequence[Any], logits: "Sequence[NDArray[np.float32]]") -> dict[str, float]: ...

    def metric_notes(self, gold: Sequence[Any], logits: "Sequence[NDArray[np.float32]]") -> list[str]:
        """Return why the metric on these labels may mislead, a sentence each."""
        return []

    @abstractmethod
    def chance(self, gold: Sequence[Any]) -> float: ...

    @abstractmethod
    def soft_loss(self, student: "torch.Tensor", teacher: "torch.Tensor", temperature: float) -> "torch.Tensor": ...

    @abstractmethod
    def hard_loss(self, logits: "torch.Tensor", gold: Sequence[Any]) -> "torch.Tensor": ...

    def class_of(self, value: Any) -> int:
        """Return the class of a label's name or index.

        A name wins over an index of the same spelling, since people write the names that they see ("1" … "5" stars).
        """
        if isinstance(value, bool):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, str):
            found = self._by_name(value.strip())
            if found is not None:
                return found
            value = _WRITTEN.get(value.strip().lower(), value) if len(self.labels) == 2 else value
        if isinstance(value, str):
            whole = value.strip().removesuffix(".0")
            value = int(whole) if whole.lstrip("-").isdecimal() else value
        if isinstance(value, int) and 0 <= value < len(self.labels):
            return value
        counted = "; are the classes counted from 1?" if value == len(self.labels) else ""
        raise ValueError(
            f"label {value!r} is not one of the model's {len(self.labels)} labels",
            f"its labels: {', '.join(self.labels[:20])}{counted}; --label-map FILE says which of the data's is which",
        )

    def _by_name(self, name: str) -> int | None:
        """Find a name as it is, else without case, else with spaces for `_` and `-` (fastText has no spaces)."""
        if name in self.labels:
            return self.labels.index(name)
        for plain in (str.lower, _spaced):
            names = [plain(label) for label in self.labels]
            if names.count(plain(name)) == 1:
                return names.index(plain(name))
        return None


_WRITTEN = {"true": 1, "false": 0}
_TRUE, _FALSE = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})


def _alike(gold: Sequence[Any]) -> bool:
    return bool(gold) and len(set(gold)) == 1


def _spaced(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")


class SingleLabel(LogitsKind):
    """The class of the largest logit."""

    metric_name = "accuracy"
    label_kind = "class"

    def label_of(self, row: Row) -> Label:
        value = label_cell(row, LABELS)
        # GLUE's test sets carry -1 where the label is kept back.
        return None if value is None or str(value).strip() == "-1" else self.class_of(value)

    def fault(self, label: Label) -> str:
        known = isinstance(label, int) and 0 <= label < len(self.labels)
        return "" if known else f"label {label!r} is not one of the model's {len(self.labels)} labels"

    def decisions(self, logits: "Sequence[NDArray[np.float32]]") -> list[Any]:
        return [int(np.argmax(row)) for row in logits]

    def metric(self, gold: Sequence[Any], logits: "Sequence[NDArray[np.float32]]") -> dict[str, float]:
        found = self.decisions(logits)
        return {
            "accuracy": metrics.accuracy(gold, found),
            "f1": metrics.f1(gold, found, len(self.labels)),
            "matthews": metrics.matthews(gold, found),
        }

    def metric_notes(self, gold: Sequence[Any], logits: "Sequence[NDArray[np.float32]]") -> list[str]:
        if len(set(gold)) == 1:
            only = f"all {len(gold)} labels of the file are {self.labels[gold[0]]!r}"
            return [f"{only}: accuracy says how often the model answers that, and f1 and matthews say nothing"]
        found = metrics.renumbered(gold, self.decisions(logits), len(self.labels))
        if found is None:
            return []
        order, before, after = found
        pairs = ", ".join(f"{i} → {self.labels[k]}" for i, k in enumerate(order) if i != k)
        gain = f"accuracy is {before:.4f}, and would be {after:.4f} with the data's labels read otherwise ({pairs})"
        return [f"{gain}: its order of classes may not be the model's; --label-map FILE says which is which"]

    def chance(self, gold: Sequence[Any]) -> float:
        """The commonest class for every text."""
        counts = Counter(gold)
        return max(counts.values()) / counts.total()

    def soft_loss(self, student: "torch.Tensor", teacher: "torch.Tensor", temperature: float) -> "torch.Tensor":
        from converter.training.losses import softened_kl

        return softened_kl(student, teacher, temperature)

    def hard_loss(self, logits: "torch.Tensor", gold: Sequence[Any]) -> "torch.Tensor":
        import torch
        import torch.nn.functional as F

        return F.cross_entropy(logits, torch.tensor(gold, device=logits.device))


class MultiLabel(LogitsKind):
    """Every class whose sigmoid is above one half, that is, whose logit is above 0."""

    metric_name = "f1"
    label_kind = "classes"

    def label_of(self, row: Row) -> Label:
        value = label_cell(row, LABELS)
        if value is None:
            return None
        given = value if isinstance(value, LabelCells) else self._cells(value)
        if given.as_flags:
            return tuple(int(str(c).strip().lower() in _TRUE) for c in given.cells)
        chosen = {self.class_of(c) for c in given.cells}
        if len(chosen) < len(given.cells):
            raise ValueError(
                f"labels {list(given.cells)} name a class twice",
                "lists are names or indices of classes in a whole file, or one 0 or 1 a class in a whole file",
            )
        return tuple(int(i in chosen) for i in range(len(self.labels)))

    def _cells(self, value: Any) -> LabelCells:
        """Tell by one row alone whether its list is one 0 or 1 a class; of a file, `survey` tells by all rows."""
        cells = label_list(value)
        flags = len(cells) == len(self.labels) and all(str(c).strip().lower() in _TRUE | _FALSE for c in cells)
        return LabelCells(tuple(cells), flags)

    def fault(self, label: Label) -> str:
        flags = isinstance(label, tuple) and len(label) == len(self.labels) and set(label) <= {0, 1}
        return (
            "" if flags else f"labels {label!r} are not one 0 or 1 for each of the model's {len(self.labels)} classes"
        )

    def decisions(self, logits: "Sequence[NDArray[np.float32]]") -> list[Any]:
        return [frozenset(int(i) for i in np.flatnonzero(row > 0)) for row in logits]

    def metric(self, gold: Sequence[Any], logits: "Sequence[NDArray[np.float32]]") -> dict[str, float]:
        found = [tuple(int(v) for v in row > 0) for row in logits]
        return {"f1": metrics.micro_f1(gold, found), "accuracy": metrics.accuracy([tuple(g) for g in gold], found)}

    def metric_notes(self, gold: Sequence[Any], logits: "Sequence[NDArray[np.float32]]") -> list[str]:
        never = [name for name, n in zip(self.labels, np.sum(gold, axis=0), strict=True) if not n] if gold else []
        if gold and len(never) == len(self.labels):
            return ["no text of the file has any label: f1 is 0 whatever the model answers"]
        return [f"no text of the file has the label {', '.join(never[:8])}: f1 does not tell of it"] if never else []

    def chance(self, gold: Sequence[Any]) -> float:
        """The best constant set: the k commonest classes, for the best k."""
        rows = np.asarray(gold)
        order = np.argsort(-rows.sum(axis=0), kind="stable")
        scores = []
        for k in range(1, len(order) + 1):
            constant = np.zeros(rows.shape[1], dtype=int)
            constant[order[:k]] = 1
            scores.append(metrics.micro_f1(rows.tolist(), [constant.tolist()] * len(rows)))
        return max(scores)

    def soft_loss(self, student: "torch.Tensor", teacher: "torch.Tensor", temperature: float) -> "torch.Tensor":
        import torch.nn.functional as F

        wanted = (teacher / temperature).sigmoid()
        # Less the teacher's own entropy: 0 where both agree, like the KL of the other kinds.
        entropy = F.binary_cross_entropy(wanted, wanted)
        return (F.binary_cross_entropy_with_logits(student / temperature, wanted) - entropy) * temperature**2

    def hard_loss(self, logits: "torch.Tensor", gold: Sequence[Any]) -> "torch.Tensor":
        import torch
        import torch.nn.functional as F

        wanted = torch.tensor(gold, dtype=logits.dtype, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits, wanted)


@dataclass(frozen=True)
class Score:
    """A score, and the range of scores that it was judged among."""

    values: tuple[float, ...]
    scale: float

    def __str__(self) -> str:
        return ", ".join(f"{v:.4g}" for v in self.values)

    def near(self, other: "Score") -> bool:
        """Tell whether `other` is within `SCORE_ROOM` of this score's range."""
        return all(abs(a - b) <= SCORE_ROOM * self.scale for a, b in zip(self.values, other.values, strict=True))


class ScoreLogits(LogitsKind):
    """The logit itself is the answer (regression)."""

    metric_name = "spearman"

    def label_of(self, row: Row) -> Label:
        value = label_cell(row, (*SCORES, *LABELS))
        return None if value is None else as_number(value, "score")

    def fault(self, label: Label) -> str:
        return "" if isinstance(label, (int, float)) else f"label {label!r} is not a score"

    def decisions(self, logits: "Sequence[NDArray[np.float32]]") -> list[Any]:
        if not len(logits):
            return []
        rows = np.stack(logits)
        scale = float(np.max(np.ptp(rows, axis=0)))
        return [Score(tuple(float(v) for v in row), scale) for row in rows]

    def metric(self, gold: Sequence[Any], logits: "Sequence[NDArray[np.float32]]") -> dict[str, float]:
        found = [float(row[0]) for row in logits]
        return {"spearman": metrics.spearman(gold, found), "pearson": metrics.pearson(gold, found)}

    def metric_notes(self, gold: Sequence[Any], logits: "Sequence[NDArray[np.float32]]") -> list[str]:
        return [f"all {len(gold)} scores of the file are the same: there is no order to find"] if _alike(gold) else []

    def chance(self, gold: Sequence[Any]) -> float:
        """A constant orders nothing."""
        return 0.0

    def soft_loss(self, student: "torch.Tensor", teacher: "torch.Tensor", temperature: float) -> "torch.Tensor":
        import torch.nn.functional as F

        return F.mse_loss(student, teacher)

    def hard_loss(self, logits: "torch.Tensor", gold: Sequence[Any]) -> "torch.Tensor":
        import torch
        import torch.nn.functional as F

        return F.mse_loss(logits[:, 0], torch.tensor(gold, dtype=logits.dtype, device=logits.device))


def logits_kind_of(config: Any, labels: tuple[str, ...]) -> LogitsKind:
    """Choose by the configuration as transformers does: `problem_type`, else one output is a score."""
    problem = getattr(config, "problem_type", None)
    if problem == "multi_label_classification":
        return MultiLabel(labels)
    if problem == "regression" or config.num_labels == 1:
        return ScoreLogits(labels)
    return SingleLabel(labels)
