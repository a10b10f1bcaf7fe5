"""One command as a user types it: exit code, seconds, and the largest memory of it and its children."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    exit_code: int
    seconds: float
    peak_bytes: int
    """Largest resident size of one process: the command's, or one that it started and waited for."""
    stdout: str
    cpu_seconds: float = 0.0
    """Of the command and all that it started and waited for: unlike the time it took, no neighbour adds to it much."""


def run(arguments: list[str], environment: dict[str, str] | None = None) -> Run:
    """Run a Python command (`-m module …` or `-c code`), its stderr shown as it comes."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    ) as child:
        assert child.stdout is not None
        stdout = child.stdout.read()
        # wait4, not getrusage: RUSAGE_CHILDREN is the largest of all children that this process ever had.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    kibi = 1 if sys.platform == "darwin" else 1024
    cpu = round(usage.ru_utime + usage.ru_stime, 1)
    return Run(child.returncode, round(time.perf_counter() - started, 1), usage.ru_maxrss * kibi, stdout, cpu)


def plm_export(*arguments: str) -> Run:
    code = "import sys; from converter.commands.cli import main; sys.argv[0] = 'plm-export'; main()"
    return run(["-c", code, *arguments])


INTEGER_SETS = ("avx2", "avx512_vnni", "avx_vnni")
"""Instruction sets by which int8 products differ in speed: without either VNNI they take twice as long."""


def machine() -> dict[str, Any]:
    """Return what a figure was measured on: figures of different machines are not compared."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def instruction_sets() -> list[str]:
    """Return those of `INTEGER_SETS` that this CPU has: a CPU's name often does not tell."""
    flags = {flag for line in _cpuinfo() if line.startswith("flags") for flag in line.partition(":")[2].split()}
    return [name for name in INTEGER_SETS if name in flags]


def commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def known(name: str) -> dict[str, Any]:
    """Return what a benchmark wrote before; nothing where it has not."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def save(name: str, table: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")
