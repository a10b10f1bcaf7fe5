"""`kill -9` at chosen moments of a run into an output folder, and what is left of everybody's files.

    python -m tests.kills --kills 200 --seed 0

A child process makes a small output and kills itself at its n-th file-system call (`calls`) or at the n-th line of
Python that it runs (`lines`: also between two calls, as between the opening of a file and its writing). Half of the
moments lie within the commit. Prints one JSON document; exits 1 where anything was lost.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from converter.errors import UsageError
from converter.package.output_folder import Output
from converter.package.output_marker import MARKER, inspect_place

SCENARIOS = ("new", "empty", "replace", "link", "link-replace")
"""What stands at OUT before: nothing, an empty folder, an output; and the last two behind a link."""
FILES = ("report.json", "recipe.toml", "tflite/manifest.json", "tflite/model.tflite", "tflite/a/deep/file", "cpu/x")
EVENTS = ("open", "os.", "shutil.", "fcntl.", "tempfile.", "ctypes.call_function")
FINISHED, REFUSED = 0, 2

Tree = dict[str, str]


def contents(word: str) -> Tree:
    """One file is the same in every output: as tokenizers are."""
    files = {name: f"{word} {name}" for name in FILES} | {"tflite/tokenizer.json": "always the same"}
    return files | ({f"{word}/only": word} if word != "third" else {})


def make(out: Path, word: str, *, force: bool, at_commit: Callable[[], None] = lambda: None) -> list[str]:
    notes: list[str] = []
    with Output(out, force=force, note=notes.append) as output:
        for name, text in contents(word).items():
            (output.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (output.folder / name).write_text(text)
        (output.work / "scratch").write_text("scratch")
        at_commit()
        output.commit()
    return notes


class World:
    """A folder with somebody's files, and OUT in it."""

    def __init__(self, folder: Path, scenario: str) -> None:
        self.folder, self.scenario, self.out = folder, scenario, folder / "out"
        link = scenario.startswith("link")
        self.real = folder / "behind" if link else self.out
        for name in ("mine.txt", ".out.partial-notes_00/diary", ".out.resume/notes", "out.earlier/thesis", "out-2/x"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("somebody's")
        if scenario != "new":
            self.real.mkdir()
        if scenario.endswith("replace"):
            make(self.real, "old", force=False)
        if link:
            self.out.symlink_to("behind")
        self.users = {name: text for name, text in tree(folder).items() if text == "somebody's"}

    def state(self) -> str:
        """Return which output is at OUT: its word where it is complete, else what it looks like."""
        if not os.path.lexists(self.out):
            return "nothing"
        found = {n: t for n, t in tree(self.real).items() if n != MARKER and not n.startswith(".plm-export.")}
        for word in ("old", "new", "third"):
            if found == contents(word) and not inspect_place(self.real, skip=hidden(self.real)).foreign:
                return word
        return "empty" if not found and not (self.real / MARKER).exists() else f"torn: {sorted(found)}"

    def before(self) -> tuple[str, ...]:
        return ("old",) if self.scenario.endswith("replace") else ("nothing", "empty")

    def faults(self, moment: str, allowed: tuple[str, ...]) -> list[str]:
        state, found = self.state(), tree(self.folder)
        wrong = [f"{moment}: OUT is {state}, not {' or '.join(allowed)}"] if state not in allowed else []
        wrong += [f"{moment}: {n} is lost" for n, text in self.users.items() if found.get(n) != text]
        if self.out.is_symlink() != self.scenario.startswith("link"):
            wrong.append(f"{moment}: the link was replaced")
        return wrong

    def leftovers(self) -> list[str]:
        known = {n.partition("/")[0] for n in self.users} | {"out", "behind"}
        return [p.name for p in self.folder.iterdir() if p.name not in known] + hidden(self.real)


def tree(folder: Path) -> Tree:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".plm-export.")] if folder.is_dir() else []


class Clock:
    """Counts moments, and kills the process at one of them."""

    def __init__(self, kind: str, deadly: int | None) -> None:
        self.count, self.deadly, self.commit_at = 0, deadly, 0
        if kind == "calls":
            sys.addaudithook(self._audit)
        else:
            sys.settrace(self._trace)

    def tick(self) -> None:
        self.count += 1
        if self.count == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def at_commit(self) -> None:
        self.commit_at = self.count

    def _audit(self, event: str, _args: object) -> None:
        if event.startswith(EVENTS):
            self.tick()

    def _trace(self, _frame: object, _event: str, _arg: object) -> Callable[..., Any]:
        self.tick()
        return self._trace


def in_child(act: Callable[[], int]) -> int:
    """Return the exit code of `act` in a process of its own; negative: the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(act())
        except BaseException as error:  # noqa: BLE001
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_and_die(world: World, kind: str, deadly: int | None, report: Path | None = None) -> int:
    def act() -> int:
        clock = Clock(kind, deadly)
        try:
            make(world.out, "new", force=True, at_commit=clock.at_commit)
        finally:
            sys.settrace(None)
        if report is not None:
            report.write_text(json.dumps([clock.commit_at, clock.count]))
        return FINISHED

    return in_child(act)


def moments(kind: str, scenario: str, folder: Path) -> tuple[int, int]:
    """Return at which moment the commit begins, and how many there are."""
    world = World(folder / f"count-{kind}-{scenario}", scenario)
    assert run_and_die(world, kind, None, folder / "counted") == FINISHED
    commit_at, count = json.loads((folder / "counted").read_text())
    return commit_at, count


def trial(folder: Path, scenario: str, kind: str, deadly: int, again: int | None) -> tuple[str, list[str]]:
    """Kill a run; with `again`, the next one too, which has to clear up. Returns what the kill left, and faults."""
    folder.mkdir()
    world = World(folder, scenario)
    code = run_and_die(world, kind, deadly)
    if code == FINISHED:  # no two runs take the same number of lines: this one was over before
        return "", []
    wrong = [] if code == -signal.SIGKILL else [f"the run ended with {code}"]
    left = world.state()
    if again is not None:
        run_and_die(world, kind, again)
    # Without force nothing may be replaced: this run only names and mends what the killed one left, or makes its own.
    notes: list[str] = []
    try:
        with Output(world.out, force=False, note=notes.append):
            pass
    except UsageError as error:
        if "exists and is not empty" not in str(error):
            wrong.append(f"the next run was refused: {error}")
    wrong += world.faults("after the next run", (*world.before(), "new"))
    if left.startswith("torn") or (left == "nothing" and "old" in world.before()):
        if again is None and not any("is back" in n for n in notes) and "old" in world.before():
            wrong.append(f"nothing was said of what was restored: {notes}")
        left = "set aside" if "old" in world.before() else "unfinished"
    try:
        make(world.out, "third", force=True)
    except UsageError as error:
        wrong.append(f"a run with --force was refused: {error}")
    wrong += world.faults("after a run with --force", ("third",))
    wrong += [f"left behind: {n}" for n in world.leftovers()]
    return left, wrong


def plan(seed: int, folder: Path) -> Iterator[tuple[str, str, int, int | None, bool]]:
    """Yield scenario, kind, moment, moment of a second kill, and whether the first is within the commit; for ever."""
    rng = random.Random(seed)
    counted = {(k, s): moments(k, s, folder) for k in ("calls", "lines") for s in SCENARIOS}
    for i in itertools.count():
        scenario, kind = SCENARIOS[i % len(SCENARIOS)], rng.choice(("calls", "lines"))
        commit_at, count = counted[kind, scenario]
        moment = rng.randint(commit_at + 1, count) if rng.random() < 0.5 else rng.randint(1, count)
        yield scenario, kind, moment, rng.randint(1, count) if rng.random() < 0.3 else None, moment > commit_at


def every_call(folder: Path) -> Iterator[tuple[str, str, int, int | None, bool]]:
    """Yield each call of each scenario's commit, once."""
    for scenario in SCENARIOS:
        commit_at, count = moments("calls", scenario, folder)
        for moment in range(commit_at + 1, count + 1):
            yield scenario, "calls", moment, None, True


def survive(kills: int | None, seed: int = 0, where: str | None = None) -> dict[str, Any]:
    """Kill `kills` runs (None: at every call of the commits) and return what was found, as JSON values.

    `where`: another folder for temporary files.
    """
    faults, left, scenarios = [], Counter[str](), Counter[str]()
    twice = in_commit = 0
    with tempfile.TemporaryDirectory(dir=where) as temporary:
        folder = Path(temporary).resolve()
        chosen = plan(seed, folder) if kills is not None else every_call(folder)
        for i, (scenario, kind, moment, again, committing) in enumerate(chosen):
            if left.total() == kills:
                break
            state, wrong = trial(folder / str(i), scenario, kind, moment, again)
            shutil.rmtree(folder / str(i))
            if not state:
                continue
            left[state] += 1
            scenarios[scenario] += 1
            twice += again is not None
            in_commit += committing
            faults += [f"{scenario}, killed at {kind} {moment}, then {again}: {text}" for text in wrong]
    return {
        "kills": left.total(),
        "within_the_commit": in_commit,
        "next_run_killed_too": twice,
        "by_scenario": dict(sorted(scenarios.items())),
        "found_at_the_output_after_the_kill": dict(sorted(left.items())),
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, help="default: one at every file-system call of the commits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="for temporary files: on the file system that is to be tried")
    typed = parser.parse_args()
    found = survive(typed.kills, typed.seed, typed.folder)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
