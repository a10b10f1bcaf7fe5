"""Scores of answers against gold labels; nothing to score is an error, never a perfect score."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

Tags = Sequence[str]
_PREFIX = re.compile(r"^([BIESLU])[-_](.+)$")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(wanted: Sequence[Any], found: Sequence[Any]) -> float:
    """Return the share of equal pairs."""
    _check(wanted, found)
    return float(np.mean([a == b for a, b in zip(wanted, found, strict=True)]))


def f1(wanted: Sequence[int], found: Sequence[int], n_classes: int) -> float:
    """Return F1 of class 1 where there are two classes (GLUE's), else the mean over classes that occur."""
    from sklearn.metrics import f1_score

    _check(wanted, found)
    if n_classes == 2:
        return float(f1_score(wanted, found, labels=[1], average="micro", zero_division=0.0))
    return float(f1_score(wanted, found, average="macro", zero_division=0.0))


def matthews(wanted: Sequence[int], found: Sequence[int]) -> float:
    """Return Matthews' correlation, -1..1; 0 where either side is constant."""
    from sklearn.metrics import matthews_corrcoef

    _check(wanted, found)
    return float(matthews_corrcoef(wanted, found))


FAR = 0.25
"""A renumbering that gains less accuracy than this is none …"""
LEAST_LABELS = 30
"""… and on fewer texts than this it may be luck."""


def renumbered(wanted: Sequence[int], found: Sequence[int], n_classes: int) -> tuple[list[int], float, float] | None:
    """Return the order of classes that fits answers best, with the accuracy as it is and in that order.

    Class i of the gold labels is the answers' class `order[i]`. None where no other order is far better, or where it
    would be no better than always giving the commonest answer.
    """
    from scipy.optimize import linear_sum_assignment

    _check(wanted, found)
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(wanted), np.asarray(found)), 1)
    rows, order = linear_sum_assignment(counts, maximize=True)
    before, after = float(np.trace(counts)) / len(wanted), float(counts[rows, order].sum()) / len(wanted)
    commonest = float(counts.sum(axis=1).max()) / len(wanted)
    if len(wanted) < LEAST_LABELS or after - before < FAR or after <= commonest + (1 - commonest) / 4:
        return None
    return [int(i) for i in order], before, after


def micro_f1(wanted: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> float:
    """Return F1 over all labels of all rows; rows are 0/1 a label."""
    from sklearn.metrics import f1_score

    _check(wanted, found)
    return float(f1_score(np.asarray(wanted), np.asarray(found), average="micro", zero_division=0.0))


def spearman(wanted: Sequence[float], found: Sequence[float]) -> float:
    """Return the rank correlation, -1..1; 0 where either side is constant (it orders nothing)."""
    from scipy.stats import spearmanr

    _check(wanted, found)
    return 0.0 if _constant(wanted) or _constant(found) else float(spearmanr(wanted, found).statistic)


def pearson(wanted: Sequence[float], found: Sequence[float]) -> float:
    """Return the linear correlation, -1..1; 0 where either side is constant."""
    from scipy.stats import pearsonr

    _check(wanted, found)
    return 0.0 if _constant(wanted) or _constant(found) else float(pearsonr(wanted, found).statistic)


def entities(tags: Tags) -> list[tuple[str, int, int]]:
    """Return the entities of one sentence as (type, first word, word after the last), as CoNLL's conlleval reads tags.

    B- (or S-, U-) always starts an entity; I- (or E-, L-) carries on one of its own type that E-, L-, S- or U- has not
    ended, and starts one otherwise (IOB1). A tag without prefix is read as I-.
    """
    found: list[tuple[str, int, int]] = []
    open_type: str | None = None
    start = 0
    for i, tag in enumerate([*tags, "O"]):
        prefix, kind = _split(tag)
        if open_type is not None and not (prefix in "IEL" and kind == open_type):
            found.append((open_type, start, i))
            open_type = None
        if kind is not None and open_type is None:
            open_type, start = kind, i
        if open_type is not None and prefix in "ESLU":
            found.append((open_type, start, i + 1))
            open_type = None
    return found


def entity_scores(wanted: Sequence[Tags], found: Sequence[Tags]) -> dict[str, float]:
    """Return F1, precision and recall of whole entities over all sentences (Tjong Kim Sang & De Meulder, CoNLL-2003).

    An entity counts where type, start and end are right. All 0 where neither side has any, as conlleval does.
    """
    _check(wanted, found)
    right = n_wanted = n_found = 0
    for gold, made in zip(wanted, found, strict=True):
        _check_lengths(gold, made)
        a, b = set(entities(gold)), set(entities(made))
        right, n_wanted, n_found = right + len(a & b), n_wanted + len(a), n_found + len(b)
    precision, recall = right / max(1, n_found), right / max(1, n_wanted)
    both = precision + recall
    return {"f1": 2 * precision * recall / both if both else 0.0, "precision": precision, "recall": recall}


def tag_accuracy(wanted: Sequence[Tags], found: Sequence[Tags]) -> float:
    """Return the share of words with the right tag."""
    _check(wanted, found)
    for gold, made in zip(wanted, found, strict=True):
        _check_lengths(gold, made)
    return accuracy([t for row in wanted for t in row], [t for row in found for t in row])


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces (SQuAD 1.1, arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(wanted: Sequence[Sequence[str]], found: Sequence[str]) -> float:
    """Return the share of answers equal to one of their gold answers after normalization; no gold means ''."""
    _check(wanted, found)
    return float(np.mean([_best(golds, answer, _same_answer) for golds, answer in zip(wanted, found, strict=True)]))


def answer_f1(wanted: Sequence[Sequence[str]], found: Sequence[str]) -> float:
    """Return the mean over questions of the best word F1 against their gold answers; no gold means ''."""
    _check(wanted, found)
    return float(np.mean([_best(golds, answer, word_f1) for golds, answer in zip(wanted, found, strict=True)]))


def word_f1(wanted: str, found: str) -> float:
    """Return F1 of the words in common; two empty answers are equal (SQuAD 2.0, arXiv 1806.03822)."""
    a, b = normalize_answer(wanted).split(), normalize_answer(found).split()
    if not a or not b:
        return float(a == b)
    common = (Counter(a) & Counter(b)).total()
    return 2 * common / (len(a) + len(b))


def _same_answer(wanted: str, found: str) -> float:
    return float(normalize_answer(wanted) == normalize_answer(found))


def _best(golds: Sequence[str], answer: str, score: Any) -> float:
    return max(score(gold, answer) for gold in golds or ("",))


def _split(tag: str) -> tuple[str, str | None]:
    """Return prefix and type of a tag; O has no type."""
    if tag == "O":
        return "O", None
    match = _PREFIX.match(tag)
    return (match[1], match[2]) if match else ("I", tag)


def _constant(values: Sequence[float]) -> bool:
    return len(values) < 2 or float(np.ptp(np.asarray(values, dtype=np.float64))) == 0.0


def _check(wanted: Sequence[Any], found: Sequence[Any]) -> None:
    if len(wanted) != len(found):
        raise ValueError(f"{len(wanted)} gold labels and {len(found)} answers")
    if not len(wanted):
        raise ValueError("a score of nothing: there are no labels")


def _check_lengths(wanted: Tags, found: Tags) -> None:
    if len(wanted) != len(found):
        raise ValueError(f"a sentence of {len(wanted)} tags has {len(found)} answers")
