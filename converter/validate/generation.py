"""What a package writes on its own, beside what the source wrote: not one wrong step, but the whole text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.generate.loop import generate
from converter.graphs import runs_side_by_side
from converter.resources import ANSWERS_AHEAD, made_in_threads
from converter.scoring.continuation import Parting, first_parting, perplexity, surprise
from converter.task import Judged
from converter.validate.answers import RunFailed, shorten
from converter.validate.cached_steps import check_cache
from converter.validate.checks import Check, Status, within
from converter.validate.vacuous import answers_alike, at_chance

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.graphs import Run
    from converter.precision import Limits
    from converter.reference import Reference
    from converter.stage import Progress

TIE = 2e-4
"""Scores this close, over their range, may change places by rounding: each may be off by 1e-4 of it."""
PERPLEXITY = "perplexity"
MOST_PERPLEXITY = 1.01
"""Of the evaluation file, or of the source's own texts, over what it is for the source."""
SHOWN = 10


@dataclass(frozen=True)
class Written:
    """What a package wrote after one text, and where that first differs from what the source wrote."""

    wanted: tuple[int, ...]
    found: tuple[int, ...]
    parting: Parting | None

    @property
    def differs(self) -> bool:
        """Whether it is another text, and not one that rounding may choose."""
        return self.parting is not None and not self.parting.tie


def generation_checks(
    source: "TorchModel",
    reference: "Reference",
    judged: Sequence[Judged],
    run: "Run",
    shipped: Any,
    limits: "Limits",
    progress: "Progress",
    metric: Mapping[str, float] | None = None,
) -> tuple[list[Check], dict[str, Any]]:
    """Let a package write, by the settings of its task `shipped`; `judged` are its answers to the source's texts.

    `metric` is how it scores on the evaluation file.

    Raises:
        RunFailed: the runtime refused a step.

    """
    vacuous = answers_alike(reference, source.task)
    made = _write(source, reference, run, shipped, progress)
    facts = {
        "texts": len(made),
        "equal": sum(w.parting is None for w in made),
        "ties": sum(w.parting is not None and w.parting.tie for w in made),
        "ended": sum(_ends(source, w.wanted) for w in made),
        "partings": [_told(source, w, j) for w, j in zip(made, reference.judged, strict=True) if w.parting][:SHOWN],
    }
    checks = [
        _sequences(source, reference, made, limits, vacuous),
        _ending(source, made, limits, vacuous),
        _perplexity(source, reference, judged, metric or {}, limits, vacuous),
        check_cache(source, reference, run, limits, vacuous),
    ]
    return checks, {"generation": facts}


def _write(
    source: "TorchModel", reference: "Reference", run: "Run", shipped: Any, progress: "Progress"
) -> list[Written]:
    """Return what the package writes after each text."""
    specs, made = source.specs, []

    def written(one: Judged) -> tuple[int, ...]:
        return free_running(shipped, specs, run, one)

    with progress.task("The package writes", total=len(reference.judged)) as ticker:
        texts = made_in_threads(written, reference.judged, alone=not runs_side_by_side(run), ahead=ANSWERS_AHEAD)
        for one, found in zip(reference.judged, texts, strict=True):
            wanted = tuple(int(i) for i in _answer(one))
            made.append(Written(wanted, found, first_parting(wanted, found, one.outputs["logits"], TIE)))
            ticker.advance()
    return made


def free_running(task: Any, specs: Any, run: "Run", one: Judged) -> tuple[int, ...]:
    """Return what a model writes after a text by the settings of `task`.

    Raises:
        RunFailed: the runtime refused a step; its classes of error are its own, so all are caught.

    """
    settings = task.judged_settings
    try:
        (found,) = generate(run, specs, task.prompt_of(one.encoding), settings).texts(settings)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunFailed(f"it does not write on after {shorten(one.example.text)!r}: {reason}") from error
    return tuple(found)


def _answer(one: Judged) -> Any:
    assert one.encoding.answer is not None, "the source's own continuation is the reference"
    return one.encoding.answer


def _ends(source: "TorchModel", tokens: Sequence[int]) -> bool:
    task: Any = source.task
    return bool(tokens) and tokens[-1] in task.settings.eos_ids


def _told(source: "TorchModel", written: Written, one: Judged) -> dict[str, Any]:
    """Return where two texts part, in words."""
    task: Any = source.task
    parting = written.parting
    assert parting is not None

    def word(token: int | None) -> str:
        return "the end" if token is None else repr(task.written([token]))

    return {
        "text": shorten(one.example.text),
        "after_tokens": parting.place,
        "wanted": word(parting.wanted),
        "found": word(parting.found),
        "tie": parting.tie,
        "source_wrote": task.written(written.wanted),
        "package_wrote": task.written(written.found),
    }


def _sequences(
    source: "TorchModel", reference: "Reference", made: Sequence[Written], limits: "Limits", vacuous: str | None
) -> Check:
    wanted = limits.agreement if limits.sequences is None else limits.sequences
    if vacuous or wanted is None:
        return Check("generation", Status.NOT_RUN, None, wanted, vacuous or "no limit is set")
    same = [not w.differs for w in made]
    value = sum(same) / len(same)
    ties = sum(w.parting is not None and w.parting.tie for w in made)
    detail = f"writing on its own, {sum(same)} of {len(made)} texts come out like the source's"
    detail += f" ({ties} of them part at two tokens of equal score)" if ties else ""
    detail += f"; at least {wanted:g} of them wanted"
    other = next((i for i, equal in enumerate(same) if not equal), None)
    if other is not None:
        told = _told(source, made[other], reference.judged[other])
        detail += (
            f"; after {told['text']!r} and {told['after_tokens']} tokens it writes {told['found']} instead of "
            f"{told['wanted']}"
        )
    return Check("generation", within(value, wanted, at_least=True), value, wanted, detail)


def _ending(source: "TorchModel", made: Sequence[Written], limits: "Limits", vacuous: str | None) -> Check:
    """Judge that what the source ends, the package ends there too, where the two write the same up to there.

    All of it where the two are the same numbers; of rounded weights as many as may be another text.
    """
    asked = [w for w in made if _ends(source, w.wanted) and (w.parting is None or w.parting.place >= len(w.wanted))]
    if vacuous or not asked:
        reason = vacuous or f"none of the source's {len(made)} texts ended within the tokens that were looked at"
        return Check("stops", Status.NOT_RUN, detail=reason)
    ended = sum(w.parting is None for w in asked)
    wanted = 1.0 if limits.sequences is None else limits.sequences
    detail = (
        f"{ended} of {len(asked)} texts that the source ends are ended at the same place; at least {wanted:g} wanted"
    )
    return Check("stops", within(ended / len(asked), wanted, at_least=True), ended / len(asked), wanted, detail)


def _perplexity(
    source: "TorchModel",
    reference: "Reference",
    judged: Sequence[Judged],
    metric: Mapping[str, float],
    limits: "Limits",
    vacuous: str | None,
) -> Check:
    """Judge the perplexity of the evaluation file; where it has no text to score, that of the source's own texts."""
    most = MOST_PERPLEXITY if limits.perplexity is None else limits.perplexity
    own = PERPLEXITY in reference.metric and PERPLEXITY in metric
    vacuous = at_chance(reference, source.task) if own else vacuous
    if vacuous or not judged:
        return Check("perplexity", Status.NOT_RUN, None, most, vacuous or "there are no texts to compare")
    if own:
        before, after = reference.metric[PERPLEXITY], metric[PERPLEXITY]
    else:
        of = [[surprise(j.outputs["logits"], _answer(j)) for j in rows] for rows in (reference.judged, judged)]
        before, after = (perplexity(rows) for rows in of)
    ratio = after / before
    texts = f"{reference.n_scored} texts of the evaluation file" if own else "the source's own texts"
    detail = (
        f"the perplexity of {texts} is {after:.4f}, {ratio:.4f} of what it is for the source; at most {most:g} wanted"
    )
    return Check("perplexity", within(ratio, most), ratio, most, detail)
