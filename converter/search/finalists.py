"""The few that are made in full: chosen by the tuning text, timed in turns, gated, and only then shown `--eval`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.context import Resolved
from converter.errors import ExportError, GateFailed, ResourceLimit
from converter.jsonfile import read_json
from converter.pipeline import run_recipe
from converter.recipe import Recipe, load_recipe_table, recipe_table
from converter.search.figures import Figures, State, Trial
from converter.search.folder import BEST, KEPT, SearchFolder
from converter.search.goal import Goal, front
from converter.search.honesty import Gain, expected_optimism, gain_of
from converter.search.study import measured
from converter.search.trials import said_of
from converter.validate.answers import RunFailed

if TYPE_CHECKING:
    from converter.reference import Reference
    from converter.search.losses import Scored
    from converter.search.workbench import Workbench
    from converter.stage import Progress

FAILED = "FAIL"
ROUNDS = 2
"""Times that more finalists are made, where the first failed or let others look better."""
TARGET, STATUS, REASON, EXIT = "target", "status", "error", "exit_code"


@dataclass(frozen=True)
class Finalist:
    """A candidate that was made in full, and what is known of its package."""

    trial: Trial
    target: str
    status: str
    """The gate's verdict."""
    exit_code: int
    reason: str = ""
    figures: Figures | None = None
    """On the tuning text, with all effort."""
    judged: "Scored | None" = None
    """On `--eval`."""
    folder: str = ""
    """Where it is kept, relative to the search's folder; empty where it is not."""

    def table(self) -> dict[str, Any]:
        return {
            "trial": self.trial.number,
            "name": self.trial.name,
            "start": self.trial.start,
            "recipe": dict(self.trial.recipe),
            "target": self.target,
            "status": self.status,
            "exit_code": self.exit_code,
            "reason": self.reason,
            "figures": self.figures.table() if self.figures else None,
            "eval": None if self.judged is None else {k: v for k, v in vars(self.judged).items() if k != "losses"},
            "folder": self.folder,
        }


def choose(
    trials: Sequence[Trial], goal: Goal, targets: Sequence[str], keep: int, failed: Sequence[int] = ()
) -> tuple[Trial, ...]:
    """Return what is to be made in full: the best of all, the best start, the best of each target, then the front.

    `failed`: trials that could not be made in full; others take their place.
    """
    found = {number: figures for number, figures in measured(trials).items() if number not in failed}
    known = {t.number: t for t in trials}
    order = sorted(found, key=lambda n: goal.order(found[n]))
    if not order:
        return ()
    per_target = [next((n for n in order if known[n].recipe["targets"] == [t]), None) for t in targets]
    chosen = dict.fromkeys([order[0], *[n for n in per_target if n is not None][:keep]])
    fronted = front(found)
    more = [n for n in order if n in fronted] if goal.limited else _spread(fronted, keep)
    for number in more:
        if len(chosen) >= keep:
            break
        chosen[number] = None
    starts = [n for n in order if known[n].start]
    return tuple(known[n] for n in dict.fromkeys([*chosen, *starts[:1]]))


def _spread(numbers: Sequence[int], wanted: int) -> list[int]:
    """Return some of the front at even distances, the fastest first."""
    n = min(wanted, len(numbers))
    return [numbers[i * (len(numbers) - 1) // max(1, n - 1)] for i in range(n)]


def recovered(trials: Sequence[Trial], made: Sequence[Finalist]) -> tuple[Trial, ...]:
    """Return the trials with the losses that they would have in full, judged by those that were made in full.

    Few training steps and little text make every candidate look worse, and the limits harder, than they are.
    """
    pairs = [(one.trial.figures, one.figures) for one in made if one.trial.recipe.get("compress")]
    shifts = [whole.loss - part.loss for part, whole in pairs if part is not None and whole is not None]
    if not shifts:
        return tuple(trials)
    shift = sum(shifts) / len(shifts)

    def moved(trial: Trial) -> Trial:
        found = trial.figures
        if found is None or not trial.recipe.get("compress"):
            return trial
        drop = None if found.drop is None else found.drop + shift
        agreement = min(1.0, found.agreement - shift)
        return replace(trial, figures=replace(found, loss=found.loss + shift, drop=drop, agreement=agreement))

    return tuple(map(moved, trials))


@dataclass
class Finals:
    """Makes finalists, and decides between them."""

    bench: "Workbench"
    goal: Goal
    folder: SearchFolder
    bind: Callable[[Mapping[str, Any]], Recipe]
    """Makes the whole recipe of a finalist: with its text, and the limits of its gate."""
    progress: "Progress"

    def make(self, trial: Trial) -> Finalist:
        """Export a finalist as any recipe is exported, and judge the sealed package on the tuning text."""
        recipe = self.bind(trial.recipe)
        (target,) = recipe.targets
        out = self.folder.finalist(trial.number)
        try:
            table = self._finished(recipe, out) or self._run(recipe, out)
            made = Finalist(trial, target.name, table[STATUS], table[EXIT], table[REASON] or "")
            if not table["folder"]:
                return made
            opened = self.bench.open(out, table["folder"], target)
            return replace(made, figures=self.bench.judged(opened, target.name, table["size_bytes"] / 1e6))
        except ResourceLimit:
            raise
        except Exception as error:  # noqa: BLE001 - said_of tells what is a bug, and raises what is no candidate's
            code = error.exit_code if isinstance(error, ExportError) else GateFailed.exit_code
            return Finalist(trial, target.name, FAILED, code, said_of(error))

    def make_all(
        self, trials: Sequence[Trial], targets: Sequence[str], keep: int, left: Callable[[], float]
    ) -> list[Finalist]:
        """Make all finalists, then a few more if time is `left`.

        Those are the next best where one failed, and what keeps to the limits by what the others recovered in full.
        """
        made: dict[int, Finalist] = {}
        longest = 0.0
        for _ in range(1 + ROUNDS):
            failed = [number for number, one in made.items() if one.figures is None or one.status == FAILED]
            known = recovered(trials, list(made.values()))
            chosen = [t for t in choose(known, self.goal, targets, keep, failed) if t.number not in made]
            if made and (not chosen or left() < longest):
                break
            for trial in chosen:
                before = left()
                whole = next(t for t in trials if t.number == trial.number)
                made[trial.number] = self.make(whole)
                longest = max(longest, before - left())
        return list(made.values())

    def _finished(self, recipe: Recipe, out: Path) -> dict[str, Any] | None:
        """Return what an interrupted search has already made of this recipe."""
        try:
            if load_recipe_table(out / "recipe.toml") != recipe_table(recipe):
                return None
            return dict(read_json(out / "report.json")["targets"][0])
        except (ExportError, KeyError, IndexError, TypeError):
            return None

    def _run(self, recipe: Recipe, out: Path) -> dict[str, Any]:
        out.parent.mkdir(parents=True, exist_ok=True)
        with self.progress.task(f"Making {out.name} in full"):
            # As many threads, and the same tables of times, as the trials had: it is the same model then.
            known = Resolved(threads=self.bench.threads, measured=self.bench.measured)
            result = run_recipe(recipe, out, force=True, progress=self.progress, resolved=known, cache=self.bench.cache)
        (made,) = result.targets
        return {
            STATUS: str(made.status),
            EXIT: made.exit_code,
            REASON: made.error,
            "folder": made.folder,
            "size_bytes": made.size_bytes,
        }

    def judge(self, made: Sequence[Finalist], reference: "Reference") -> tuple[Finalist, ...]:
        """Look at `--eval`, once for all finalists."""
        judged = []
        for one in made:
            (target,) = self.bind(one.trial.recipe).targets
            out = self.folder.finalist(one.trial.number)
            if one.figures is None:
                judged.append(one)
                continue
            package = next(p.name for p in (out / one.target, out / f"{one.target}.rejected") if p.is_dir())
            opened = self.bench.open(out, package, target)
            try:
                judged.append(replace(one, judged=self.bench.score(opened, reference)))
            except RunFailed as error:
                judged.append(replace(one, reason=one.reason or str(error)))
        return tuple(judged)


@dataclass(frozen=True)
class Decision:
    """Who has won, and how sure that is."""

    winner: Finalist | None
    ranked: tuple[Finalist, ...]
    """All finalists, the winner first."""
    optimism: float
    """What the least loss on the tuning text is expected to be too small by."""
    gain: Gain | None
    """Over the best start; None where that has won, or was not made."""


def decide(made: Sequence[Finalist], trials: Sequence[Trial], goal: Goal, seed: int = 0) -> Decision:
    """Return the winner: the best on the tuning text; a start, where nothing is expected to be better than it.

    A package that failed its gate is never the winner while another did not.
    """
    whole = [one for one in made if one.figures is not None]
    if not whole:
        return Decision(None, tuple(made), 0.0, None)
    ranked = sorted(whole, key=lambda f: (f.status == FAILED, *goal.order(_figures(f))))
    looked = [t.figures for t in trials if t.state is State.MEASURED and t.figures is not None]
    # Luck is among those that could have won: what is too slow or too large did not compete.
    rivals = [f for f in looked if not any(v > 0 for v in goal.costs_of(f).values())]
    optimism = expected_optimism(rivals or looked, seed)
    winner, gain = ranked[0], None
    start = next((one for one in ranked if one.trial.start), None)
    if start is not None and not winner.trial.start:
        gain = gain_of(_figures(winner), _figures(start), start.trial.name, goal.minimized[0], optimism)
        both = goal.missed(_figures(winner)) == goal.missed(_figures(start)) and winner.status == start.status
        if both and gain.value <= 0 and goal.limited:
            winner, gain = start, None
    rest = [one for one in (*ranked, *(m for m in made if m.figures is None)) if one is not winner]
    return Decision(winner, (winner, *rest), optimism, gain)


def confirmed(gain: Gain | None, winner: Finalist, ranked: Sequence[Finalist]) -> Gain | None:
    """Return a gain in loss as `--eval` shows it, by which nothing was ordered; other gains stay as they are."""
    start = next((one for one in ranked if one.trial.name == gain.over), None) if gain else None
    if gain is None or gain.by != "loss" or start is None or winner.judged is None or start.judged is None:
        return gain
    own, theirs = _figures(winner), _figures(start)
    own, theirs = (replace(f, loss=s.loss, losses=s.losses) for f, s in ((own, winner.judged), (theirs, start.judged)))
    return gain_of(own, theirs, gain.over, gain.by, text="--eval")


def place(decision: Decision, folder: SearchFolder, keep: int, chosen: Sequence[int]) -> Decision:
    """Move the winner to `best` and, of the others, as many as are wanted beside it; the rest is removed.

    `chosen`: trials in the order in which they were chosen to be made: the best of each target, the front, and then
    what the winner is only compared with.
    """
    folder.remove_packages()
    able = [f for f in decision.ranked if f.figures is not None and folder.finalist(f.trial.number).is_dir()]
    able.sort(key=lambda f: (f is not decision.winner, f.status == FAILED, chosen.index(f.trial.number)))
    wanted = {f.trial.number for f in able[:keep]}
    kept: list[Finalist] = []
    for one in decision.ranked:
        if one.trial.number not in wanted:
            kept.append(one)
            continue
        name = BEST if one is decision.winner else f"{KEPT}{len([k for k in kept if k.folder]) + 1}"
        folder.keep(one.trial.number, name)
        kept.append(replace(one, folder=name))
    folder.end()
    winner = kept[0] if decision.winner is not None else None
    return replace(decision, winner=winner, ranked=tuple(kept))


def _figures(one: Finalist) -> Figures:
    assert one.figures is not None
    return one.figures
