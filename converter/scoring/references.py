"""Written texts against right ones: BLEU and chrF (sacrebleu), ROUGE (rouge-score), exact match. All 0..1.

BLEU 34.5, as papers print it, is 0.345 here: a point of BLEU is 0.01, as a percentage point is of all other metrics.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

BLEU, CHRF, EXACT = "bleu", "chrf", "exact_match"
ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Our names, and those of the rouge-score library."""
BY_CHARACTER = {"zh": "zh", "ja": "char", "ko": "char", "th": "char"}
"""How sacrebleu splits languages that write no spaces, by their two letters; all others as `13a` does."""
_WORD = re.compile(r"\w+")

References = Sequence[Sequence[str]]
"""The right answers to each text: one at least."""


class _Words:
    """rouge-score's own split keeps `a-z0-9` alone; this is the same for English, and keeps all other scripts."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def reference_scores(wanted: References, found: Sequence[str], language: str | None = None) -> dict[str, float]:
    """Return all scores (0..1) of the texts `found`; `language` is the one they are in, where it is known.

    Raises:
        ValueError: there is no text, or one has no reference.

    """
    return {
        BLEU: bleu(wanted, found, language),
        CHRF: chrf(wanted, found),
        **rouge(wanted, found),
        EXACT: exact(wanted, found),
    }


def reference_score(name: str, wanted: References, found: Sequence[str], language: str | None = None) -> float:
    """Return one of the scores, `bleu` or one of ROUGE's, without the work of the others."""
    return bleu(wanted, found, language) if name == BLEU else rouge(wanted, found)[name]


def bleu(wanted: References, found: Sequence[str], language: str | None = None) -> float:
    """Return the BLEU of a whole corpus (Papineni et al. 2002), as sacrebleu computes it (arXiv 1804.08771)."""
    _check(wanted, found)
    return min(1.0, float(_bleu(language).corpus_score(list(found), _by_place(wanted)).score) / 100)


def bleu_signature(language: str | None = None) -> str:
    """Return what sacrebleu says of how BLEU is computed, so that others can compare with it."""
    import sacrebleu

    return f"case:mixed|eff:no|tok:{BY_CHARACTER.get(language or '', '13a')}|smooth:exp|version:{sacrebleu.__version__}"


def chrf(wanted: References, found: Sequence[str]) -> float:
    """Return chrF2, the F score of character n-grams (Popović 2015), of a whole corpus."""
    import sacrebleu

    _check(wanted, found)
    # Rounding may take it past 100.
    return min(1.0, float(sacrebleu.CHRF().corpus_score(list(found), _by_place(wanted)).score) / 100)


def rouge(wanted: References, found: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 of ROUGE-1, 2 and L (Lin 2004) without stemming, of the best reference of each text."""
    _check(wanted, found)
    each = [_rouge_of(tuple(right), text) for right, text in zip(wanted, found, strict=True)]
    return {name: sum(row[i] for row in each) / len(each) for i, name in enumerate(ROUGE)}


@lru_cache(maxsize=100_000)
def _rouge_of(right: tuple[str, ...], text: str) -> tuple[float, ...]:
    """Score one text: kept, since parts of a file are scored again to tell how sure its score is."""
    best = _scorer().score_multi(list(right), text)
    return tuple(float(best[theirs].fmeasure) for theirs in ROUGE.values())


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE.values()), use_stemmer=False, tokenizer=_Words())


def exact(wanted: References, found: Sequence[str]) -> float:
    """Return the share of texts that are one of their references, but for white space at the ends."""
    _check(wanted, found)
    equal = [text.strip() in {r.strip() for r in right} for right, text in zip(wanted, found, strict=True)]
    return sum(equal) / len(equal)


def _bleu(language: str | None) -> Any:
    import sacrebleu

    return sacrebleu.BLEU(tokenize=BY_CHARACTER.get(language or "", "13a"))


def _by_place(wanted: References) -> list[list[str | None]]:
    """Return the first reference of every text, the second, and so on; None where a text has fewer."""
    most = max(len(right) for right in wanted)
    return [[right[i] if i < len(right) else None for right in wanted] for i in range(most)]


def _check(wanted: References, found: Sequence[str]) -> None:
    if len(wanted) != len(found):
        raise ValueError(f"references of {len(wanted)} texts, and {len(found)} texts")
    if not found:
        raise ValueError("a score of nothing: there are no texts")
    if not all(wanted):
        raise ValueError("a text has no reference")
