"""What is said while it works."""

import io
import time

import pytest
from rich.console import Console

from converter.commands import progress
from converter.commands.progress import Bars, Lines


def test_lines_say_how_far_and_how_long_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    with Lines(said.append).task("Distilling", 100) as ticker:
        for _ in range(50):
            now[0] += 1
            ticker.advance()
        ticker.describe("loss 0.5")
    assert said == ["Distilling: 30%, about 1 min 10 s left"]


def test_short_work_says_nothing_to_a_log() -> None:
    said: list[str] = []
    with Lines(said.append).task("Exporting") as ticker:
        ticker.advance()
    assert said == []


def test_work_of_unknown_length_says_how_long_it_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    with Lines(said.append).task("Waiting") as ticker:
        now[0] = 40
        ticker.describe("step 2")
    assert said == ["Waiting · step 2: 40 s so far"]


def test_work_that_says_nothing_itself_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    said: list[str] = []
    lines = Lines(said.append)
    with lines.task("Exporting"), lines.task("Lowering"):
        time.sleep(0.3)
    assert said, "one call of a library that takes minutes"
    assert set(said) == {"Lowering: 0 s so far"}, "what goes on within it, not all of it"
    before = len(said)
    time.sleep(0.15)
    assert len(said) == before, "and it ends with the work"


def drawn() -> tuple[Bars, io.StringIO]:
    stream = io.StringIO()
    return Bars(Console(file=stream, force_terminal=True, width=100)), stream


def test_bars_show_title_detail_and_nested_work() -> None:
    bars, stream = drawn()
    with bars.task("Exporting"), bars.task("Proving [cpu]", 4) as ticker:
        ticker.advance(2)
        ticker.describe("text 2")
        bars.note("a note [not markup]")
        time.sleep(0.3)  # it is drawn ten times a second
    said = stream.getvalue()
    for part in ("Exporting", "Proving [cpu] · text 2", "50 %", "a note [not markup]"):
        assert part in said


def test_an_error_inside_ends_the_drawing() -> None:
    bars, stream = drawn()
    with pytest.raises(KeyboardInterrupt), bars.task("Exporting"), bars.task("Inner", 3):
        raise KeyboardInterrupt
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")
    with bars.task("Again"):
        pass


def test_an_interruption_while_a_task_is_drawn_ends_the_drawing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bars, stream = drawn()

    def interrupt(*_given: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), bars.task("Exporting"):
        monkeypatch.setattr(bars._bars, "add_task", interrupt)
        with bars.task("Inner"):
            pytest.fail("the task was begun")
    assert stream.getvalue().endswith("\x1b[?25h")
