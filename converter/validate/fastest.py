"""`auto`: of several packages of one target, the fastest that passes its gate, all timed in the same run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from converter.reference import encode_probes
from converter.validate.checks import Evaluation, Status
from converter.validate.speed import race

if TYPE_CHECKING:
    from converter.artifact import Bundle
    from converter.recipe import ChosenPrecision
    from converter.stage import Record
    from converter.target import Target
    from converter.validate.proof import ProofContext

RANKS = {Status.PASS: 0, Status.NOT_RUN: 1, Status.FAIL: 2}
"""A package that passed comes before one that could not be judged, and that before one that failed."""


@dataclass(frozen=True)
class Candidate:
    """A package that was made and judged, not sealed yet."""

    precision: "ChosenPrecision"
    bundle: "Bundle"
    evaluation: Evaluation
    records: "tuple[Record, ...]"


def keep_fastest(
    target: "Target", made: "Sequence[Candidate]", failed: "dict[str, str]", proof: "ProofContext"
) -> Candidate:
    """Return the fastest of those with the best verdict; its facts tell of all, `failed` (what was not made) too.

    Where none passed, the one nearest to its source is returned, whose verdict then is the run's.
    """
    times = _race(target, [m for m in made if m.evaluation.agreement >= 0], proof)
    best = min(RANKS[m.evaluation.status] for m in made)
    running = [m for m in made if RANKS[m.evaluation.status] == best]
    if best == RANKS[Status.FAIL]:
        # NaN is the agreement of a package that could not be compared at all.
        chosen = max(running, key=lambda m: m.evaluation.agreement if m.evaluation.agreement >= 0 else -1.0)
    else:
        chosen = min(running, key=lambda m: times.get(str(m.precision), float("inf")))
    rows = [_row(m, times.get(str(m.precision)), chosen) for m in made]
    rows += [{"precision": name, "status": "FAIL", "said": f"not made: {error}"} for name, error in failed.items()]
    facts = {**chosen.evaluation.facts, "candidates": rows}
    return replace(chosen, evaluation=replace(chosen.evaluation, facts=facts))


def _race(target: "Target", made: "Sequence[Candidate]", proof: "ProofContext") -> dict[str, float]:
    """Return median milliseconds by precision; every text is asked of all in turn."""
    if not made:
        return {}
    source = made[0].bundle.source
    runners = {str(m.precision): target.open(m.bundle.folder, source.specs) for m in made}
    shortest = min(r.max_length or source.max_length for r in runners.values())
    fitting = replace(source, max_length=min(shortest, source.max_length))
    probes = encode_probes(fitting, [j.example for j in proof.reference.judged])
    found = race(source, probes, {name: r.run for name, r in runners.items()}, proof.progress)
    return {name: round(1000 * median(t for _, t in times), 3) for name, times in found.items()}


def _row(one: Candidate, milliseconds: float | None, chosen: Candidate) -> dict[str, Any]:
    found = one.evaluation
    reason = found.reason() or ("the fastest that passes" if one is chosen else "passes, but slower")
    taken = f"{milliseconds:.2f} ms per text, " if milliseconds is not None else ""
    return {
        "precision": str(one.precision),
        "status": found.status,
        "milliseconds": milliseconds,
        "size_bytes": one.bundle.size_bytes,
        "agreement": found.agreement,
        "metric": found.metric,
        "stability": found.facts.get("stability"),
        "said": f"{taken}agreement {found.agreement:.4f}, {found.status}: {reason}",
    }
