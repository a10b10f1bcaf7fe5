"""The few that are made in full: chosen by the tuning text, timed in turns, gated, and only then shown `--eval`."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from converter.errors import GateFailed, ResourceLimit
from converter.recipe import Recipe
from converter.search.figures import Figures, State, Trial
from converter.search.folder import BEST, KEPT, SearchFolder
from converter.search.goal import Goal, front
from converter.search.honesty import Gain, expected_optimism, gain_of
from converter.search.making import Work
from converter.search.saying import said_of
from converter.search.study import measured
from converter.search.whole import EXIT, FAILED, FOLDER, REASON, SIZE, STATUS, made_in_full, not_made
from converter.validate.answers import RunFailed

if TYPE_CHECKING:
    from converter.reference import Reference
    from converter.search.local import Local
    from converter.search.losses import Scored
    from converter.search.workbench import Workbench
    from converter.stage import Progress

ROUNDS = 2
"""Times that more finalists are made, where the first failed or let others look better."""
FURTHER = 3
"""Times that the next best are made too, as long as there is time."""


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
    trials: Sequence[Trial],
    goal: Goal,
    targets: Sequence[str],
    keep: int,
    failed: Sequence[int] = (),
    *,
    rival: bool = True,
) -> tuple[Trial, ...]:
    """Return what is to be made in full: the best of all, the best of each target, the front, then the best start.

    `failed`: trials that could not be made in full; others take their place. `rival` False: without the best start,
    which the best is only compared with.
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
    starts = [n for n in order if known[n].start and rival]
    return tuple(known[n] for n in dict.fromkeys([*chosen, *starts[:1]]))


def _spread(numbers: Sequence[int], wanted: int) -> list[int]:
    """Return some of the front at even distances, the fastest first."""
    n = min(wanted, len(numbers))
    return [numbers[i * (len(numbers) - 1) // max(1, n - 1)] for i in range(n)]


def recovered(trials: Sequence[Trial], made: Sequence[Finalist]) -> tuple[Trial, ...]:
    """Return the trials with the losses that they would have in full, judged by those that were made in full.

    Few training steps and little text make every candidate look worse, and the limits harder, than they are. Those that
    were made in full have the figures that they were found to have: one that broke a limit leaves its place to others.
    """
    whole = {one.trial.number: one.figures for one in made if one.figures is not None}
    pairs = [(one.trial.figures, one.figures) for one in made if one.trial.recipe.get("compress")]
    shifts = [full.loss - part.loss for part, full in pairs if part is not None and full is not None]
    shift = sum(shifts) / len(shifts) if shifts else 0.0

    def moved(trial: Trial) -> Trial:
        found = trial.figures
        if trial.number in whole:
            return replace(trial, figures=whole[trial.number])
        if found is None or not trial.recipe.get("compress"):
            return trial
        drop = None if found.drop is None else found.drop + shift
        agreement = min(1.0, found.agreement - shift)
        return replace(trial, figures=replace(found, loss=found.loss + shift, drop=drop, agreement=agreement))

    return tuple(map(moved, trials))


@dataclass
class _Pool:
    """What was made in full so far."""

    made: dict[int, Finalist] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    """Trials in the order in which they were chosen."""
    spared: set[int] = field(default_factory=set)
    """Starts that are left out for want of time."""
    longest: float = 0.0
    """Seconds of what was made together."""
    taken: float = 0.0
    foretold: float = 0.0
    """Seconds that all of it took, and was expected to take."""

    @property
    def failed(self) -> list[int]:
        return [number for number, one in self.made.items() if one.figures is None or one.status == FAILED]

    def takes(self, foretold: float) -> float:
        """Return the seconds that more will take, by how far off what was foretold of the others was."""
        return foretold * self.taken / self.foretold if foretold and self.foretold else max(foretold, self.longest)

    def add(self, chosen: Sequence[Trial]) -> None:
        self.order += [n for n in dict.fromkeys(t.number for t in chosen) if n not in self.order]


@dataclass
class Finals:
    """Makes finalists, and decides between them."""

    bench: "Workbench"
    goal: Goal
    folder: SearchFolder
    bind: Callable[[Mapping[str, Any]], Recipe]
    """Makes the whole recipe of a finalist: with its text, and the limits of its gate."""
    progress: "Progress"

    maker: "Local | None" = None
    """Processes that make several at the same time; None: this one makes one after the other."""
    expected: Callable[[Sequence[Trial]], float] = lambda _: 0.0
    """Seconds that making these in full is expected to take."""
    late: float = 0.0
    """Seconds that the search may end after its time for the best start, which the best is compared with."""

    def make(self, trials: Sequence[Trial]) -> dict[int, Finalist]:
        """Export finalists as any recipe is exported, and judge the sealed packages on the tuning text, one by one."""
        recipes = {trial.number: self.bind(trial.recipe) for trial in trials}
        tables = self._exported(recipes)
        return {trial.number: self._judged(trial, recipes[trial.number], tables[trial.number]) for trial in trials}

    def _exported(self, recipes: Mapping[int, Recipe]) -> dict[int, Mapping[str, Any]]:
        if self.maker is None or len(recipes) == 1:
            return {number: self._made_here(number, recipe) for number, recipe in recipes.items()}
        starved: list[int] = []
        with self.progress.task(f"Making {len(recipes)} packages in full"):
            for number, recipe in recipes.items():
                self.maker.begin(number, Work("whole", recipe, {}, 1.0, out=self.folder.finalist(number)))
            made: dict[int, Mapping[str, Any]] = {}
            while len(made) + len(starved) < len(recipes):
                done = self.maker.ended()
                if isinstance(done.found, ResourceLimit):
                    starved.append(done.number)
                    continue
                failed = isinstance(done.found, (Exception, Figures))
                made[done.number] = not_made(str(done.found)) if failed else done.found  # type: ignore[assignment]
        if starved:
            self.maker.stop()  # what they hold is free then: one alone may have room
        return made | {number: self._made_here(number, recipes[number]) for number in starved}

    def _made_here(self, number: int, recipe: Recipe) -> Mapping[str, Any]:
        """Make one in this process.

        Raises:
            ResourceLimit: memory or disk ran out.

        """
        # In as many threads as each of several has: what is made does not depend on how many are made together.
        threads = self.bench.threads if self.maker is None else 1
        return made_in_full(recipe, self.folder.finalist(number), self.bench, self.progress, threads)

    def _judged(self, trial: Trial, recipe: Recipe, table: Mapping[str, Any]) -> Finalist:
        (target,) = recipe.targets
        made = Finalist(trial, target.name, table[STATUS], table[EXIT], table[REASON] or "")
        if not table[FOLDER]:
            return made
        try:
            opened = self.bench.open(self.folder.finalist(trial.number), table[FOLDER], target)
            return replace(made, figures=self.bench.judged(opened, target.name, table[SIZE] / 1e6))
        except ResourceLimit:
            raise
        except Exception as error:  # noqa: BLE001 - said_of tells what is a bug, and raises what is no candidate's
            return Finalist(trial, target.name, FAILED, GateFailed.exit_code, said_of(error))

    def make_all(
        self, trials: Sequence[Trial], targets: Sequence[str], keep: int, left: Callable[[], float]
    ) -> list[Finalist]:
        """Make the best and what it is compared with; others along the front, and then a few more, if time is `left`.

        The best is always made; what it is compared with only if there is time for it.
        Those are the next best where one failed or broke a limit, what keeps to the limits by what the others recovered
        in full, and then the next best as long as there is time: trials tell little of those that are close.
        """
        pool = _Pool()
        for turn in range(1 + ROUNDS + FURTHER):
            known = recovered(trials, list(pool.made.values()))
            best, more = (choose(known, self.goal, targets, n, pool.failed) for n in (len(targets), keep))
            chosen = [t for t in {t.number: t for t in (*best, *more)}.values() if t.number not in pool.made]
            chosen = chosen or self._further(known, pool)
            pool.add((*more, *best, *chosen))
            if not pool.made:
                needed = {t.number for t in self._needed(known, targets, best, left())}
                pool.spared = {t.number for t in best} - needed
            else:  # where all that had to be made has failed, and a start was spared, there is nothing yet
                lacking = pool.spared and len(pool.failed) == len(pool.made) and turn <= ROUNDS
                needed = {best[0].number} if best and lacking else set()
            whole = [next(t for t in trials if t.number == one.number) for one in chosen]
            if not self._made_in_time(whole, needed, pool, left):
                break
        if pool.spared - pool.made.keys():
            self.progress.note("the best start was not made in full, for want of time: the gain over it is not known")
        return sorted(pool.made.values(), key=lambda one: pool.order.index(one.trial.number))

    def _made_in_time(
        self, chosen: Sequence[Trial], needed: AbstractSet[int], pool: "_Pool", left: Callable[[], float]
    ) -> bool:
        """Make what is `needed` and, as far as there is time, what else was chosen; tells whether anything was made."""
        before_all = len(pool.made)
        while chosen:
            # What must be made is made first, together.
            n = self._at_once(len([t for t in chosen if t.number in needed]))
            together, chosen = chosen[:n], chosen[n:]
            before, foretold = left(), self.expected(together)
            if pool.made and before < pool.takes(foretold) and not {t.number for t in together} & needed:
                break
            pool.made |= self.make(together)
            took = before - left()
            pool.longest, pool.taken = max(pool.longest, took), pool.taken + took
            pool.foretold += foretold
        return len(pool.made) > before_all

    def _further(self, known: Sequence[Trial], pool: "_Pool") -> list[Trial]:
        """Return the next best that were not made, as many as are made together; none where there are no limits."""
        found = {n: f for n, f in measured(known).items() if n not in pool.made}
        order = sorted(found, key=lambda n: self.goal.order(found[n]))[: self._at_once(0)] if self.goal.limited else []
        return [t for n in order for t in known if t.number == n]

    def _needed(
        self, known: Sequence[Trial], targets: Sequence[str], best: tuple[Trial, ...], left: float
    ) -> tuple[Trial, ...]:
        """Return what is made whatever time is left: without the best start, where that would take long beyond it."""
        alone = choose(known, self.goal, targets, len(targets), rival=False)
        seconds = self.expected(best)
        return alone if seconds > left + self.late and self.expected(alone) < seconds else best

    def _at_once(self, needed: int) -> int:
        """Return how many are made together."""
        slots = 1 if self.maker is None else self.maker.slots
        return max(1, min(slots, needed or slots))

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
