"""How sure a measured share or drop is: bounds by confidence, and what they decide against a limit.

Each bound holds on its own with the confidence that is asked for (one-sided), since a verdict rests on one of them: on
the unfavourable bound to pass, on the favourable one to fail.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
MOST_TEXTS = 1_000_000
"""Where so many texts would not settle it, the value lies at the limit."""


@dataclass(frozen=True)
class Interval:
    """A measured value with its bounds; of `n` texts."""

    value: float
    low: float
    high: float
    n: int


def share_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of values in 0..1, one a text, with bounds.

    Exact for zeros and ones (Clopper and Pearson, 1934). For shares of a text (tags) from their spread, widened by what
    as many texts without any loss would still leave open.

    Raises:
        ValueError: there are no values.

    """
    n = len(values)
    if not n:
        raise ValueError("an interval of nothing: there are no texts")
    rows = np.asarray(values, dtype=np.float64)
    mean = float(rows.mean())
    if bool(np.isin(rows, (0.0, 1.0)).all()):
        count = round(mean * n)
        return Interval(mean, *_binomial(count, n, confidence), n)
    spread = float(rows.std(ddof=1)) / math.sqrt(n) if n > 1 else 1.0
    half = math.hypot(_student(confidence, n - 1) * spread, unseen(n, confidence))
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), n)


def unseen(n: int, confidence: float = CONFIDENCE) -> float:
    """Return how often what was not seen in `n` texts may still occur ("rule of three": about 3/n at 0.95)."""
    return 1.0 - (1.0 - confidence) ** (1.0 / n)


def paired_drop(worse: int, better: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the drop of a share of right answers with bounds, of the texts that two models answer differently.

    `worse` texts only the first gets right, `better` only the second. Bounds are Tango's (1998), by the score of the
    paired difference; where all differences point one way, exact ones (Clopper and Pearson) hold as well.
    """
    high, low = _tango(worse, better, n, confidence), -_tango(better, worse, n, confidence)
    # p(worse) - p(better) is at most p(worse): its exact bound is one of the difference too.
    if not better:
        high = max(high, _binomial(worse, n, confidence)[1])
    if not worse:
        low = min(low, -_binomial(better, n, confidence)[1])
    return Interval((worse - better) / n, low, high, n)


def jackknife_drop(drop: float, without: Sequence[float], n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return a drop of any score (F1, a rank correlation) with bounds, by the delete-a-group jackknife.

    `without[g]` is the drop on the texts without group g of equal groups (paired: both models without the same texts).
    The bounds are widened by what was not seen: texts that all come out alike do not prove that all others will.
    """
    groups = len(without)
    if groups < 2:
        return Interval(drop, -math.inf, math.inf, n)
    pseudo = groups * drop - (groups - 1) * np.asarray(without, dtype=np.float64)
    spread = float(pseudo.std(ddof=1)) / math.sqrt(groups)
    half = math.hypot(_student(confidence, groups - 1) * spread, unseen(n, confidence))
    return Interval(drop, drop - half, drop + half, n)


def decide(found: Interval, limit: float, *, at_least: bool = False) -> bool | None:
    """Tell whether a value keeps to its limit: True or False where a bound says so, None where neither does.

    Differences of ratios may exceed an exact limit by rounding alone, so that much is let through.
    """
    if not math.isfinite(found.value):
        return False
    rounding = 1e-9
    if at_least:
        return True if found.low >= limit - rounding else False if found.high < limit - rounding else None
    return True if found.high <= limit + rounding else False if found.low > limit + rounding else None


def texts_to_settle(
    found: Interval, limit: float, like: Callable[[int], Interval], *, at_least: bool = False
) -> int | None:
    """Return about how many texts would settle it, if they came out as `like` says of n; None where none would."""
    return _fewest(lambda n: decide(like(n), limit, at_least=at_least) is not None, found.n)


def share_like(found: Interval, confidence: float = CONFIDENCE) -> Callable[[int], Interval]:
    """Return what a share would be on n texts that came out as those of `found` did."""

    def like(n: int) -> Interval:
        count = round(found.value * n)
        return Interval(count / n, *_binomial(count, n, confidence), n)

    return like


def paired_like(worse: int, better: int, n_found: int, confidence: float = CONFIDENCE) -> Callable[[int], Interval]:
    """Return what a paired drop would be on n texts that came out as those `n_found` did."""
    return lambda n: paired_drop(round(worse * n / n_found), round(better * n / n_found), n, confidence)


def drop_like(found: Interval, confidence: float = CONFIDENCE) -> Callable[[int], Interval]:
    """Return what the drop of any score would be on n texts that came out as those of `found` did."""
    spread = math.sqrt(max(0.0, (found.high - found.value) ** 2 - unseen(found.n, confidence) ** 2))

    def like(n: int) -> Interval:
        half = math.hypot(spread * math.sqrt(found.n / n), unseen(n, confidence))
        return Interval(found.value, found.value - half, found.value + half, n)

    return like


def _fewest(settled: Callable[[int], bool], n: int) -> int | None:
    """Return the least number above `n` that settles it, by doubling, then halving."""
    high = n + 1
    while not settled(high):
        if high > MOST_TEXTS:
            return None
        high *= 2
    low = max(n, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


def _binomial(count: int, n: int, confidence: float) -> tuple[float, float]:
    from scipy.special import betaincinv

    low = float(betaincinv(count, n - count + 1, 1 - confidence)) if count else 0.0
    high = float(betaincinv(count + 1, n - count, confidence)) if count < n else 1.0
    return low, high


def _student(confidence: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(max(1, freedom), confidence))


def _tango(worse: int, better: int, n: int, confidence: float) -> float:
    """Return the upper bound: the largest difference that the score test does not reject, by bisection."""
    z = NormalDist().inv_cdf(confidence)
    low, high = (worse - better) / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(worse, better, n, middle) < z else (low, middle)
    return high


def _score(worse: int, better: int, n: int, difference: float) -> float:
    """Return how many standard errors a true `difference` lies above the observed one."""
    # The likeliest p(better) under that difference solves a p² + b p + c = 0.
    a, b = 2.0 * n, -worse - better + (2.0 * n - worse + better) * difference
    c = -better * difference * (1.0 - difference)
    p = (math.sqrt(max(0.0, b * b - 4.0 * a * c)) - b) / (2.0 * a)
    variance = n * (2.0 * p + difference * (1.0 - difference))
    distance = n * difference - (worse - better)
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0
