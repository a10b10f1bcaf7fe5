"""Asks clients in environments of their own: one process of a client answers all tests of a worker."""

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def environment() -> dict[str, str]:
    """Return what a client's process is to see: offline, one thread, nothing of this project."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}


class Client:
    """A Python with a client in it, started when it is first asked, and again where it died."""

    def __init__(self, python: Path, log: Path) -> None:
        self._command = [str(python), str(HERE / "serve.py")]
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def ask(self, script: str, folder: Path, question: Any) -> Any:
        """Return what `main` of a script in this folder answers; `folder` holds the files of question and answer."""
        asked, answered = folder / "asked.json", folder / "answered.json"
        asked.write_text(json.dumps(question), encoding="utf-8")
        answered.unlink(missing_ok=True)
        ended = self._told([script, str(asked), str(answered)])
        assert ended is None, ended
        return json.loads(answered.read_text(encoding="utf-8"))

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):  # a question that it did not read
                self._process.communicate()
            self._process.wait()
        self._process = None

    def _told(self, wanted: list[str]) -> Any:
        """Return what the process says of one question; why it ended where it says nothing."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        try:
            process.stdin.write(f"{json.dumps(wanted)}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            pass  # it is dead: said below
        finally:
            if not line:  # dead, or interrupted: what it may still say is no answer to the next question
                self.close()
        return json.loads(line) if line else f"the client ended: {self._log.read_text()[-3000:]}"

    def _started(self) -> subprocess.Popen[str]:
        with self._log.open("w") as log:
            return subprocess.Popen(
                self._command, env=environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
