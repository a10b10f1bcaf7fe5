"""Processes of the command line that have imported the libraries before they start.

One process imports them once (`Warm`), and each program that a test starts through it is a fork of that: a process of
its own, with the streams, folder, variables and words that the test gives, which runs `converter.commands.cli` from its
first line. That saves seconds of imports each. What libraries read of the variables when they are imported is this
process's, not the test's. A test about the start itself, or about signals, starts Python as users
do.

What a test starts is `command`: a small program that hands its streams over, ends as the fork ends (exit code or
signal), and takes it along when it is killed. This file imports nothing that takes time: it is that program.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch.onnx", "torch._dynamo", "torch.distributed", "accelerate", "onnxscript", "onnxruntime")
NAMES = ("AutoTokenizer", "PreTrainedModel", "BertForSequenceClassification")
"""Of transformers, which imports its parts where they are asked for."""
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What keeps libraries from starting threads when they are imported."""
LARGEST_REQUEST = 1 << 20


class Warm:
    """A process that has the libraries and makes forks of itself until it is closed."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="plm-warm-")  # the names of sockets must be short
        self.address = Path(self._folder.name) / "socket"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", "serve", str(self.address)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **dict.fromkeys(POOLS, "1")},
            stdin=subprocess.PIPE,  # never written to: it ends with this process, whatever ends that
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    @property
    def command(self) -> list[str]:
        """The first words of a command line; those of `plm-export` follow."""
        return [sys.executable, "-I", "-S", __file__, "ask", str(self.address)]

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._folder.cleanup()


def serve(address: str) -> None:
    """Import the libraries, then fork for everyone who asks at `address`, until stdin ends."""
    import gc
    import importlib

    for name in LIBRARIES:
        importlib.import_module(name)
    transformers: Any = importlib.import_module("transformers")
    for name in NAMES:
        getattr(transformers, name)
    gc.collect()
    gc.freeze()
    _Server(address).run()


class _Server:
    def __init__(self, address: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address)
        self._listener.listen()
        self._asking: dict[socket.socket, int] = {}
        """Who waits for the end of which fork."""
        self._ended, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector = selectors.DefaultSelector()
        for waited in (sys.stdin.fileno(), self._listener, self._ended):
            self._selector.register(waited, selectors.EVENT_READ)

    def run(self) -> None:
        os.write(1, b"ready\n")  # past sys.stdout, which forks inherit
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == sys.stdin.fileno():
                    for pid in self._asking.values():
                        os.kill(pid, signal.SIGKILL)
                    return
                if key.fileobj is self._listener:
                    self._fork(self._listener.accept()[0])
                elif key.fileobj is self._ended:
                    self._ended.recv(4096)
                    self._tell_ends()
                elif key.fileobj in self._asking:
                    self._selector.unregister(key.fileobj)
                    os.kill(self._asking[key.fileobj], signal.SIGKILL)  # who asked was killed

    def _fork(self, asking: socket.socket) -> None:
        request, streams, _, _ = socket.recv_fds(asking, LARGEST_REQUEST, 3)
        assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread does not survive a fork"
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            for own in (self._listener, self._ended, self._wake, asking, *self._asking):
                own.close()
            _become(json.loads(request), streams)
        for stream in streams:
            os.close(stream)
        self._asking[asking] = pid
        self._selector.register(asking, selectors.EVENT_READ)

    def _tell_ends(self) -> None:
        """Several may have ended at one signal."""
        for asking, pid in list(self._asking.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with contextlib.suppress(OSError):
                asking.sendall(str(code).encode())
            del self._asking[asking]
            with contextlib.suppress(KeyError):
                self._selector.unregister(asking)
            asking.close()


def _become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Be the program that was asked for, as if Python had started here."""
    import runpy

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["plm-export", *request["words"]]
    sys.path[0] = request["cwd"]
    with _Ending():
        runpy.run_module("converter.commands.cli", run_name="__main__", alter_sys=True)


class _Ending:
    """Ends this process as Python would, but leaves the libraries to the kernel: taking them apart takes a second."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> NoReturn:
        import atexit

        code = error.code if isinstance(error, SystemExit) else int(error is not None)
        if kind is not None and error is not None and not isinstance(error, SystemExit):
            sys.excepthook(kind, error, trace)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def ask(address: str, words: list[str]) -> NoReturn:
    """Have the words run, and end as that ends."""
    asked = {"words": words, "cwd": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(address)
        socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
        code = int(server.recv(16) or b"1")
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        ask(sys.argv[2], sys.argv[3:])
