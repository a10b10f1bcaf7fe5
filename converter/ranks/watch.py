"""An error in one process ends all of them, wherever they are, with that error's exit code."""

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

from converter.bounds.exhausted import exhausted
from converter.bounds.watch import Stopped
from converter.errors import INTERRUPTED_EXIT_CODE, EndedElsewhere, ExportError, ResourceLimit
from converter.ranks.group import LOST, Ending, Ranks

BETWEEN_LOOKS = 0.5
SECONDS_TO_STOP = 15.0
"""What a process has to come back by itself from a collective that nobody else takes part in any more."""
SIGNAL = signal.SIGUSR2


@contextlib.contextmanager
def together(ranks: Ranks, give_up: Callable[[ExportError], None] = lambda _: None) -> Iterator[None]:
    """Tell the others how this process ends, and raise `Stopped` in the main thread where another ends with an error.

    `give_up` is told of it where the main thread does not come back.
    """
    watch = _Watch(ranks, give_up)
    before = signal.signal(SIGNAL, watch.stop)
    watch.thread.start()
    try:
        yield
    except BaseException as raised:
        error = watch.cause(raised)
        ranks.end(code_of(error), str(error), getattr(error, "hint", ""))
        if error is raised:
            raise
        raise error from raised
    finally:
        watch.over.set()
        watch.thread.join()
        signal.signal(SIGNAL, before)


def code_of(error: BaseException) -> int:
    """Return the exit code of an error, as the command line has it."""
    if isinstance(error, Stopped):
        return error.error.exit_code
    known = exhausted(error) or error
    if isinstance(known, ExportError):
        return known.exit_code
    return INTERRUPTED_EXIT_CODE if isinstance(error, KeyboardInterrupt) else 1


class _Watch:
    def __init__(self, ranks: Ranks, give_up: Callable[[ExportError], None]) -> None:
        self.ranks, self.give_up = ranks, give_up
        self.over = threading.Event()
        self.error: ExportError | None = None
        self.thread = threading.Thread(target=self._look, name="ranks", daemon=True)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.error is not None and not self.over.is_set():
            raise Stopped(self.error)

    def cause(self, raised: BaseException) -> BaseException:
        """Return what is behind an error: a collective fails as soon as another process is gone."""
        if isinstance(raised, (ExportError, KeyboardInterrupt)) or not _of_collective(raised):
            return raised
        if self.error is None:
            self.over.wait(2 * BETWEEN_LOOKS + 1)  # it may just be about to tell
        ending = self._ended()
        return (
            ResourceLimit(LOST, hint="see the log of the launcher")
            if ending is None
            else EndedElsewhere.of(ending.rank, ending.code, ending.message, ending.hint)
        )

    def _ended(self) -> Ending | None:
        try:
            found = self.ranks.ended()
        except ResourceLimit:
            return None
        return found if found is not None and found.code else None

    def _look(self) -> None:
        while not self.over.wait(BETWEEN_LOOKS):
            ending = self._ended()
            if ending is None:
                continue
            self.error = EndedElsewhere.of(ending.rank, ending.code, ending.message, ending.hint)
            signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
            if not self.over.wait(SECONDS_TO_STOP):
                try:
                    self.give_up(self.error)
                finally:
                    os._exit(ending.code)
            return


def _of_collective(error: BaseException) -> bool:
    """Tell whether an error came out of a collective: gloo and NCCL raise plain errors of the runtime."""
    shown = "".join(traceback.format_exception(error))
    return isinstance(error, RuntimeError) and ("distributed" in shown or "Connection" in str(error))
