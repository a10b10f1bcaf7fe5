"""The packages in the clients that people have: transformers.js, Optimum, sentence-transformers and MediaPipe.

    python benchmarks/clients.py [--cache FOLDER] [--only mediapipe]

Makes their environments where they are missing, as `make clients` does, runs tests/clients in them and writes
`benchmarks/results/clients.json`. `PLM_EXPORT_NODE_MODULES`, `PLM_EXPORT_OPTIMUM_PYTHON` and
`PLM_EXPORT_MEDIAPIPE_PYTHON` name environments that are there already.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _measure import known, machine, save

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / "tests" / "clients" / "environments.py"


@dataclass(frozen=True)
class Client:
    """One environment: the variable that tells the tests where it is, and what it is within the client's folder."""

    variable: str
    tests: str
    path: str
    versions: Callable[[Path], dict[str, str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/plm-export-clients").expanduser())
    parser.add_argument("--only", choices=CLIENTS, help="this client's tests alone, beside what stands in the file")
    given = parser.parse_args()
    chosen = {given.only: CLIENTS[given.only]} if given.only else CLIENTS
    places = {
        client.variable: Path(os.environ.get(client.variable) or set_up(given.cache, name, client))
        for name, client in chosen.items()
    }
    found = run_tests({client.tests for client in chosen.values()}, places)
    table = merged(known("clients") if given.only else {}, found)
    for name, client in chosen.items():
        table["machines"][name] = machine()
        table["versions"] |= client.versions(places[client.variable])
    wrong = table["not_passed"] = [name for name, outcome in table["cases"].items() if outcome != "passed"]
    save("clients", table)
    for name in wrong:
        print("not passed:", name)
    return 1 if wrong or not found[0] else 0


def merged(before: dict[str, Any], found: tuple[dict[str, str], dict[str, Any]]) -> dict[str, Any]:
    """A case that another client's absence skips keeps how it ended before."""
    cases, facts = found
    ended = before.get("cases", {})
    return {
        "machines": before.get("machines", {}),
        "versions": before.get("versions", {}),
        "cases": ended | {name: how for name, how in cases.items() if how != "skipped" or name not in ended},
        "facts": before.get("facts", {}) | facts,
    }


def set_up(cache: Path, name: str, client: Client) -> Path:
    subprocess.run([sys.executable, ENVIRONMENTS, cache, name], check=True)
    if not (cache / name / ".ready").is_file():
        sys.exit(f"the environment {name} cannot be made: measured is with all clients, or with --only")
    return cache / name / client.path


def node_versions(modules: Path) -> dict[str, str]:
    package = json.loads((modules / "@huggingface" / "transformers" / "package.json").read_text(encoding="utf-8"))
    return {"transformers.js": package["version"]}


def python_versions(python: Path) -> dict[str, str]:
    return installed(python, "optimum-onnx", "transformers", "sentence-transformers", "onnxruntime")


def mediapipe_versions(python: Path) -> dict[str, str]:
    return installed(python, "mediapipe")


def installed(python: Path, *names: str) -> dict[str, str]:
    code = "import importlib.metadata as m, sys\nfor n in sys.argv[1:]: print(n, m.version(n))"
    made = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in made.splitlines())


def run_tests(paths: set[str], places: dict[str, Path]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return how each case ended, and what the cases recorded."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        # The newer form of the report has no place for what a case records.
        flags = ["-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *sorted(paths), *flags],
            cwd=ROOT,
            env=os.environ | {name: str(path) for name, path in places.items()},
            check=False,
        )
        cases = list(ET.parse(report).getroot().iter("testcase")) if report.is_file() else []
        recorded = {str(case.get("name")): _recorded(case) for case in cases}
        return {str(case.get("name")): _outcome(case) for case in cases}, {n: r for n, r in recorded.items() if r}


def _outcome(case: ET.Element) -> str:
    return next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")


def _recorded(case: ET.Element) -> dict[str, str]:
    return {str(p.get("name")): str(p.get("value")) for p in case.iter("property")}


ONNX, TFLITE = "tests/clients/test_clients.py", "tests/clients/test_mediapipe.py"
CLIENTS = {
    "js": Client("PLM_EXPORT_NODE_MODULES", ONNX, "node_modules", node_versions),
    "python": Client("PLM_EXPORT_OPTIMUM_PYTHON", ONNX, "bin/python", python_versions),
    "mediapipe": Client("PLM_EXPORT_MEDIAPIPE_PYTHON", TFLITE, "bin/python", mediapipe_versions),
}

if __name__ == "__main__":
    sys.exit(main())
