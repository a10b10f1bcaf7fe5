"""Progress on a terminal (bars with time left) and elsewhere (a line now and then)."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID

SECONDS_BETWEEN_LINES = 30.0
SECONDS_WORTH_A_LINE = 2.0
SHOW_CURSOR = "\x1b[?25h"


class Bars:
    """One bar a task, nested tasks below; what took a while leaves a line when it is done."""

    def __init__(self, console: "Console") -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.text import Text

        class Share(ProgressColumn):
            """How far it is and how long it will take; nothing where the end is not known."""

            def render(self, task: "Task") -> Text:
                if task.total is None:
                    return Text()
                left = task.time_remaining
                return Text(f"{task.percentage:>3.0f} %" + ("" if left is None else f" · {_clock(left)} left"))

        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            Share(),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._depth = 0

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator["_Bar"]:
        started, depth = time.monotonic(), self._depth
        title = "  " * depth + title
        bar = None
        try:  # around all of it: an interruption comes most often while something is drawn
            self._depth += 1
            if depth == 0:
                self._bars.start()
            bar = self._bars.add_task(title, total=total)
            yield _Bar(self._bars, bar, title)
        finally:
            self._depth = depth
            if bar is not None:
                self._bars.remove_task(bar)
            if depth == 0:
                self._end()
        seconds = time.monotonic() - started
        if depth > 0 and seconds >= SECONDS_WORTH_A_LINE:
            self.note(f"{title} · {seconds:.0f} s")

    def _end(self) -> None:
        self._bars.stop()
        # An interruption in the midst of drawing leaves rich's buffer open, and the cursor hidden for good.
        self._bars.console.file.write(SHOW_CURSOR)
        self._bars.console.file.flush()

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


class _Bar:
    def __init__(self, bars: "RichProgress", task: "TaskID", title: str) -> None:
        self._bars, self._task, self._title = bars, task, title

    def advance(self, steps: float = 1) -> None:
        self._bars.advance(self._task, steps)

    def describe(self, text: str) -> None:
        title = self._title.strip()
        said = text.removeprefix(title).lstrip(" ·:")  # some name the task again
        self._bars.update(self._task, description=f"{self._title} · {said}" if said else self._title)


class Lines:
    """For logs: a task says something only once it has run for half a minute, and then every half minute.

    Also one that does not come to say how far it is: a lowering is one call of a library.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: list[_Line] = []

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator["_Line"]:
        line, ended = _Line(self._say, title, total), threading.Event()
        watch = threading.Thread(target=self._watch, args=(line, ended), daemon=True)
        self._running.append(line)
        watch.start()
        try:
            yield line
        finally:
            ended.set()
            watch.join()
            self._running.remove(line)

    def _watch(self, line: "_Line", ended: threading.Event) -> None:
        """Let a task tell how long it has been running until it has ended, unless one within it does."""
        while not ended.wait(SECONDS_BETWEEN_LINES):
            if self._running[-1] is line:
                line.tell()

    def note(self, text: str) -> None:
        self._say(text)


class _Line:
    def __init__(self, say: Callable[[str], None], title: str, total: float | None) -> None:
        self._say, self._title, self._total = say, title, total
        self._done, self._detail = 0.0, ""
        self._started = self._last = time.monotonic()

    def advance(self, steps: float = 1) -> None:
        self._done += steps
        self.tell()

    def describe(self, text: str) -> None:
        said = text.removeprefix(self._title).lstrip(" ·:")
        self._detail = f" · {said}" if said else ""
        self.tell()

    def tell(self) -> None:
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        self._say(f"{self._title}{self._detail}: {self._share(now - self._started)}")

    def _share(self, seconds: float) -> str:
        if not self._total or not self._done:
            return f"{seconds:.0f} s so far"
        left = seconds * max(0.0, self._total - self._done) / self._done
        return f"{self._done / self._total:.0%}, about {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{rest} s" if minutes == 0 else f"{minutes} min {rest} s"
