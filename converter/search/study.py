"""The study: what was tried and how it came out, in a SQLite file, so that an interrupted search goes on."""

import bisect
import contextlib
import json
import logging
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np

from converter.errors import RuntimeMissing, UsageError
from converter.search.figures import Figures, State, Trial, trial_of
from converter.search.goal import Goal
from converter.search.neighbours import neighbour
from converter.search.space import Space
from converter.search.starts import Start

if TYPE_CHECKING:
    import optuna

NAME = "search"
SAMPLERS = ("tpe", "nsga2", "random")
Sampler = Literal["tpe", "nsga2", "random"]
RANDOM_FIRST = 8
"""Finished trials, the starts among them, before the sampler's model decides."""
TRIAL, START, RECIPE, EXCESS, IDENTITY = "trial", "start", "recipe", "excess", "identity"
WORST = Figures(1.0, None, 1.0, 0.0, 1e3, 1e-3, 1e3)
"""What a candidate is taken for that was never made, where nothing was measured yet."""
REFUSED_EXCESS = 10.0
NEAR_BEST = 0.6
"""How often, once something is known, a candidate near one of the best is proposed, not one by the sampler's model."""
BEST = 3
"""The best, near which candidates are proposed."""


@dataclass(frozen=True)
class Asked:
    """What is to be tried next."""

    number: int
    recipe: Mapping[str, Any]
    start: str
    trial: Any


class Study:
    """An Optuna study of one model, text, goal and space."""

    def __init__(
        self, study: "optuna.Study", space: Space, goal: Goal, starts: Sequence[Start], *, seed: int | None = None
    ) -> None:
        """Begin with these starts; `seed` None: nothing is proposed but by the sampler."""
        self._study, self._space, self._goal = study, space, goal
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._recipes: dict[str, Mapping[str, Any]] = {}
        known = study.get_trials(deepcopy=False)
        self._done = [trial_of(json.loads(t.user_attrs[TRIAL])) for t in known if TRIAL in t.user_attrs]
        self._give_up_running()
        self.start_with(starts)

    def _give_up_running(self) -> None:
        """A trial that an interrupted search has left half done counts for nothing."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)

    def start_with(self, starts: Sequence[Start]) -> None:
        """Let trials begin with these, but for those that an earlier run has made."""
        from optuna.trial import TrialState

        lost = {t.number for t in self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))}
        trials = self._study.get_trials(deepcopy=False)
        known = {t.user_attrs.get(START) for t in trials if t.number not in lost or TRIAL in t.user_attrs}
        self._recipes |= {start.name: start.recipe for start in starts}
        for start in starts:
            if start.name not in known:
                self._study.enqueue_trial(self._space.numbers_of(start.recipe), user_attrs={START: start.name})

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Return what has been tried, in order."""
        return tuple(self._done)

    def ask(self) -> Asked:
        """Return what to try next: the starts first, then what the sampler proposes."""
        from optuna.trial import TrialState

        with _quiet():
            if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self._propose_near()
            trial = self._study.ask()
            proposed = self._space.propose(trial)
        start = str(trial.user_attrs.get(START, ""))
        recipe = trial.user_attrs.get(RECIPE, proposed)
        return Asked(trial.number, self._recipes.get(start, recipe), start if start in self._recipes else "", trial)

    def _propose_near(self) -> None:
        """Now and then let the next candidate be near one of the best, the very best most often."""
        found = measured(self.trials)
        if self._rng is None or len(found) < BEST or self._rng.random() > NEAR_BEST:
            return
        order = sorted(found, key=lambda n: self._goal.order(found[n]))
        chosen = order[min(len(order), BEST) - 1 - int(np.sqrt(self._rng.integers(BEST**2)))]
        recipe = next(t.recipe for t in self.trials if t.number == chosen)
        self._study.enqueue_trial(neighbour(self._space, recipe, self._rng))

    def ask_for(self, recipe: Mapping[str, Any]) -> Asked:
        """Let a trial have a certain recipe, and return what to try next: starts that wait come before it."""
        with _quiet():
            self._study.enqueue_trial(self._space.numbers_of(recipe), user_attrs={RECIPE: dict(recipe)})
        return self.ask()

    def setting(self, name: str, value: float) -> float:
        """Return what an earlier run of this study has set, or set it: trials must stay comparable."""
        known = self._study.user_attrs.get(name)
        if known is None:
            self._study.set_user_attr(name, value)
        return value if known is None else float(known)

    def tell(self, asked: Asked, made: Trial) -> None:
        """Keep how a trial came out; one that was refused is to the sampler as bad as the worst, and far off."""
        found = made.figures or self.worst()
        excess = self._goal.excess(found)
        if made.figures is None:
            excess = dict.fromkeys(excess, REFUSED_EXCESS)
        bisect.insort(self._done, made, key=lambda t: t.number)  # several at once end in any order
        asked.trial.set_user_attr(TRIAL, json.dumps(made.table()))
        asked.trial.set_user_attr(EXCESS, list(excess.values()))
        with _quiet():
            self._study.tell(asked.trial, [float(getattr(found, name)) for name in self._goal.minimized])

    def worst(self) -> Figures:
        """Return the worst of everything that was measured."""
        found = list(measured(self.trials).values()) or [WORST]
        loss = max(f.loss for f in found)
        slowest, largest = max(f.milliseconds for f in found), max(f.megabytes for f in found)
        return Figures(loss, None, loss, 1.0 - loss, slowest, min(f.speedup for f in found), largest, effort=0.0)


def open_study(
    file: Path,
    space: Space,
    goal: Goal,
    starts: Sequence[Start],
    identity: Mapping[str, Any],
    *,
    seed: int,
    sampler: Sampler = "tpe",
) -> Study:
    """Open the study in `file`, or begin one.

    Raises:
        UsageError: it is no study, or one of another model, text, goal, space or version.
        RuntimeMissing: Optuna is not installed.

    """
    optuna = load_optuna()
    _refuse_foreign(file)
    known_before = file.exists()
    try:
        with _quiet():
            storage = _storage(file)
            before = len(optuna.load_study(study_name=NAME, storage=storage).get_trials()) if known_before else 0
            study = optuna.create_study(
                study_name=NAME,
                storage=storage,
                sampler=_sampler(sampler, goal, seed + before),
                directions=["minimize"] * len(goal.minimized),
                load_if_exists=True,
            )
    except Exception as error:  # noqa: BLE001 - sqlalchemy's and Optuna's classes are many
        raise UsageError(
            f"the study cannot be read ({(str(error).splitlines() or [type(error).__name__])[0][:120]})",
            where=str(file),
            hint="choose another -o, or add --force to begin again",
        ) from None
    known = study.user_attrs.get(IDENTITY)
    if known is None:
        study.set_user_attr(IDENTITY, dict(identity))
    elif known != dict(identity):
        other = [name for name in identity if known.get(name) != identity[name]]
        raise UsageError(
            f"the study there is of another {' and '.join(other) or 'kind'}",
            where=str(file),
            hint="choose another -o, or add --force to begin again",
        )
    return Study(study, space, goal, starts, seed=seed + before if sampler == "tpe" else None)


def _storage(file: Path) -> Any:
    """Return the storage in a file, without waiting for the disk at each number: a killed process loses nothing."""
    from sqlalchemy import event

    storage = load_optuna().storages.RDBStorage(f"sqlite:///{quote(str(file))}")

    def connected(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(storage.engine, "connect", connected)
    storage.engine.dispose()  # connections that were opened before are as they were
    return storage


def load_optuna() -> Any:
    """Return the library.

    Raises:
        RuntimeMissing: it is not installed.

    """
    try:
        import optuna
    except ImportError:
        raise RuntimeMissing(
            "a search needs Optuna, which is not installed", hint="pip install 'plm-export[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _sampler(name: Sampler, goal: Goal, seed: int) -> Any:
    optuna = load_optuna()
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # Without limits there are no constraints, and a function that returns none is an error to some samplers.
    limits = _constraints if goal.limited else None
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=RANDOM_FIRST, constraints_func=limits)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=RANDOM_FIRST, multivariate=True, group=True, constraints_func=limits
    )


def _constraints(trial: Any) -> Sequence[float]:
    return tuple(trial.user_attrs.get(EXCESS, ()))


def _refuse_foreign(file: Path) -> None:
    if not file.exists():
        return
    try:
        # Not read-only: what a killed process has left half written must be taken back first.
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as opened:
            opened.execute("select 1 from studies").fetchone()
    except sqlite3.Error:
        raise UsageError(
            "this is not the file of a study", where=str(file), hint="choose another -o, or add --force to begin again"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what Optuna says of its own experimental parts and of its schema."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = logging.getLogger("alembic")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def measured(trials: Sequence[Trial]) -> dict[int, Figures]:
    """Return the figures of the trials that were made and measured as packages."""
    return {t.number: t.figures for t in trials if t.state is State.MEASURED and t.figures is not None}
