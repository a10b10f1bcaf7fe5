"""Results on stdout, everything said on stderr, and the noise of libraries on neither."""

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

from converter.bounds.printable import one_line, printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console

    from converter.stage import Progress

REPLAYED_CHARACTERS = 4000
PLAIN_WIDTH = 200  # wide enough that no table of ours is cut where nobody looks at a window


class Terminal:
    """The two streams of a run.

    Libraries write to the file descriptors 1 and 2 from C++, past Python's own streams, so `hushed` points those at a
    log and this class writes to copies of the originals.
    """

    def __init__(self, *, owns_process: bool = False) -> None:
        self.verbose = False
        self.quiet = False
        self.json = False
        self.reader_has_gone = False
        """Whether what stdout goes to was closed (`| head`): no more of it is wanted."""
        self._owns_process = owns_process
        """Whether the process ends with the run: libraries stay hushed then, for what they say while they are freed."""
        self._out: IO[str] = sys.stdout
        self._err: IO[str] = sys.stderr
        self._log: IO[bytes] | None = None

    @contextlib.contextmanager
    def hushed(self) -> Iterator[None]:
        """Send what others write to stdout and stderr to a log (with `verbose`: to stderr) until the end.

        In a process of its own that is the end of the process. What a package was opened with is freed late: with the
        frames of the command, of an error, or of Python itself; LiteRT then tells of every processor.
        """
        if self._owns_process and self._log is not None:
            yield
            return
        _flush()
        kept = _copy(1), _copy(2)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it is replayed after this block
        sink = kept[1] if self.verbose else self._log.fileno()
        before = self._out, self._err
        self._out, self._err = (os.fdopen(f, "w", encoding="utf-8", errors="replace", closefd=False) for f in kept)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        # A crash in C++ would otherwise end without a word.
        faulthandler.enable(file=kept[1], all_threads=False)
        try:
            yield
        finally:
            _flush()
            with contextlib.suppress(OSError):
                self._out.flush()
                self._err.flush()
            if not self._owns_process:
                self._restore(kept, before)

    def _restore(self, kept: tuple[int, int], before: tuple[IO[str], IO[str]]) -> None:
        faulthandler.disable()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        self._out, self._err = before
        for descriptor in kept:
            os.close(descriptor)

    @property
    def console(self) -> "Console":
        """Where progress and messages are drawn."""
        return _console(self._err)

    @property
    def result_console(self) -> "Console":
        """Where tables are drawn; wide and plain where stdout is not a terminal."""
        return _console(self._out)

    def progress(self) -> "Progress":
        """Bars on a terminal, a few lines elsewhere, nothing with `quiet`. Ask for it inside `hushed`."""
        from converter.commands.progress import Bars, Lines
        from converter.stage import SILENT

        if self.quiet:
            return SILENT
        console = self.console
        return Bars(console) if console.is_terminal and not self.verbose else Lines(self.say)

    def result(self, text: str) -> None:
        """Write to stdout what a terminal shows, not obeys. A reader that has gone (`| head`) is no error."""
        self.stream(text + "\n")

    def result_lines(self, lines: Iterable[str]) -> None:
        """Write lines to stdout, each on one line whatever names stand in it."""
        self.result("\n".join(map(one_line, lines)))

    def document(self, text: str) -> None:
        """Write a JSON document to stdout."""
        self._write_out(printable_json(text) + "\n")

    def stream(self, text: str) -> None:
        """Write a piece of text to stdout at once. A reader that has gone is no error."""
        self._write_out(printable(text))

    def say(self, text: str) -> None:
        """Write a line to stderr, unless `quiet`."""
        if not self.quiet:
            self._write(printable(text))

    def error(self, message: str, hint: str = "", code: str = "") -> None:
        """Write the red line with its code at the end, and the line that says what to do next."""
        red, dim, end = ("\033[1;31m", "\033[2m", "\033[0m") if self.colored else ("", "", "")
        coded = f" {dim}[{code}]{end}" if code else ""
        self._write(f"{red}error:{end} {one_line(' '.join(message.split()))}{coded}")
        if hint:
            self._write(f"{dim}hint:{end} {one_line(' '.join(hint.split()))}")

    @property
    def colored(self) -> bool:
        return self._err.isatty() and "NO_COLOR" not in os.environ

    def replay(self) -> str:
        """Return the end of what libraries wrote while they were hushed."""
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-REPLAYED_CHARACTERS:]

    def _write_out(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:
            self.reader_has_gone = True

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a reader that has gone, a terminal that was closed
            self._err.write(text + "\n")
            self._err.flush()


def _console(stream: IO[str]) -> "Console":
    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

    class Plain(Console):
        """Draws no markup of names, and shows what a terminal would obey."""

        def render_str(
            self,
            text: str,
            *,
            style: Any = "",
            justify: Any = None,
            overflow: Any = None,
            emoji: bool | None = None,
            markup: bool | None = None,
            highlight: bool | None = None,
            highlighter: Any = None,
        ) -> Text:
            return super().render_str(
                printable(text),
                style=style,
                justify=justify,
                overflow=overflow,
                emoji=emoji,
                markup=markup,
                highlight=highlight,
                highlighter=highlighter,
            )

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    width = None if stream.isatty() else PLAIN_WIDTH
    if width is None:
        with contextlib.suppress(OSError, ValueError):
            width = os.get_terminal_size(stream.fileno()).columns or None
    return Plain(file=stream, width=width, highlight=False, soft_wrap=False, markup=False, emoji=False)


def _copy(descriptor: int) -> int:
    try:
        return os.dup(descriptor)
    except OSError:  # started with the stream closed
        return os.open(os.devnull, os.O_WRONLY)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
