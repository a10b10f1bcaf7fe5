"""Makes the environments of the clients that open packages: transformers.js, Optimum, MediaPipe, onnxruntime-genai,
LiteRT-LM.

    python tests/clients/environments.py FOLDER [js] [python] [mediapipe] [genai] [litert-lm]

Their versions are locked by `package-lock.json` and by `optimum.txt`, `mediapipe.txt`, `genai.txt` and `litert-lm.txt`
beside this file. An environment of these versions that stands in FOLDER already is kept. One that cannot be had (no
Node, no network) is no error: the reason is printed and left in FOLDER, and the tests that need it are skipped with
that reason.
"""

import hashlib
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIP = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input", "--no-deps", "--no-compile")
LOCKS = {
    "js": "package-lock.json",
    "python": "optimum.txt",
    "mediapipe": "mediapipe.txt",
    "genai": "genai.txt",
    "litert-lm": "litert-lm.txt",
}
READY, ABSENT = ".ready", ".absent"


class Absent(Exception):
    """An environment that cannot be had; the message is one line."""


def main(folder: str, *names: str) -> int:
    """Make the environments side by side: most of their time is spent on the network."""
    chosen = names or tuple(LOCKS)
    with ThreadPoolExecutor(len(chosen)) as pool:
        for line in pool.map(lambda name: make(name, Path(folder).expanduser() / name), chosen):
            print(line, flush=True)  # noqa: T201 - a script, not a test
    return 0


def make(name: str, folder: Path) -> str:
    """Make one environment where it is missing or of other versions; return a line about it."""
    began = time.monotonic()
    if (folder / READY).is_file() and (folder / READY).read_text() == _version(name):
        return f"client environment {name}: is there"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _MAKERS[name](folder)
    except Absent as absent:
        (folder / ABSENT).write_text(str(absent), encoding="utf-8")
        return f"client environment {name}: NOT MADE, its tests are skipped: {absent}"
    (folder / READY).write_text(_version(name))
    return f"client environment {name}: made in {time.monotonic() - began:.0f} s"


def why_absent(folder: Path) -> str | None:
    """Return why the environment `folder` cannot be used; None where it can."""
    if (folder / READY).is_file():
        return None
    reason = folder / ABSENT
    return reason.read_text(encoding="utf-8") if reason.is_file() else "make clients makes its environment"


def _version(name: str) -> str:
    return hashlib.sha256((HERE / LOCKS[name]).read_bytes()).hexdigest()


def _node(folder: Path) -> None:
    """Install transformers.js; its native runtime comes inside the package, so no install script needs to run."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise Absent("node and npm are not installed")
    for file in ("package.json", LOCKS["js"]):
        shutil.copy(HERE / file, folder)
    _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], folder)


def _optimum(folder: Path) -> None:
    # PyTorch by itself: it may come from somewhere else than the rest.
    lines = (HERE / LOCKS["python"]).read_text(encoding="utf-8").splitlines()
    torch = next(line for line in lines if line.startswith("torch=="))
    rest = folder / LOCKS["python"]
    rest.write_text("\n".join(line for line in lines if line != torch) + "\n", encoding="utf-8")
    _environment(folder, [torch], ["-r", str(rest)])


def _mediapipe(folder: Path) -> None:
    _environment(folder, ["-r", str(HERE / LOCKS["mediapipe"])])


def _genai(folder: Path) -> None:
    _environment(folder, ["-r", str(HERE / LOCKS["genai"])])


def _litert_lm(folder: Path) -> None:
    _environment(folder, ["-r", str(HERE / LOCKS["litert-lm"])])


def _environment(folder: Path, *steps: Sequence[str]) -> None:
    venv.create(folder, with_pip=True)
    for step in steps:
        _run([str(folder / "bin" / "python"), *PIP, *step], folder)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith(("error", "npm error"))]
        why = (errors or said or ["no reason given"])[-1]
        raise Absent(f"{Path(command[0]).name} failed with exit code {done.returncode}: {why[:200]}")


_MAKERS: dict[str, Callable[[Path], None]] = {
    "js": _node,
    "python": _optimum,
    "mediapipe": _mediapipe,
    "genai": _genai,
    "litert-lm": _litert_lm,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(LOCKS):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
