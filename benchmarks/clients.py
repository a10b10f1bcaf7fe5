"""The packages in the clients that people have: transformers.js, Optimum and sentence-transformers.

    python benchmarks/clients.py [--cache FOLDER]

Sets their environments up once (Node 20 for the first, an older transformers for the other two), runs tests/clients in
them and writes `benchmarks/results/clients.json`. `PLM_EXPORT_NODE_MODULES` and `PLM_EXPORT_OPTIMUM_PYTHON` name
environments that are there already.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from _measure import machine, save

TRANSFORMERS_JS = "@huggingface/transformers@4.3.1"
PYTHON_CLIENTS = ("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6", "sentence-transformers==5.7.0")
TORCH = "torch==2.13.0"
ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/plm-export-clients").expanduser())
    cache = parser.parse_args().cache
    modules = Path(os.environ.get("PLM_EXPORT_NODE_MODULES") or set_up_node(cache / "js"))
    python = Path(os.environ.get("PLM_EXPORT_OPTIMUM_PYTHON") or set_up_python(cache / "python"))
    cases = run_tests(modules, python)
    wrong = [name for name, outcome in cases.items() if outcome != "passed"]
    versions = {"transformers.js": TRANSFORMERS_JS.rsplit("@", 1)[1], **python_versions(python)}
    save("clients", {"machine": machine(), "versions": versions, "cases": cases, "not_passed": wrong})
    for name in wrong:
        print("not passed:", name)
    return 1 if wrong or not cases else 0


def set_up_node(folder: Path) -> Path:
    """Install transformers.js; its native runtime comes inside the package, so no install script needs to run."""
    if shutil.which("npm") is None:
        sys.exit("npm is missing: install Node 20")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules" / "@huggingface" / "transformers").is_dir():
        (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(["npm", "install", *flags, TRANSFORMERS_JS], cwd=folder, check=True)
    return folder / "node_modules"


def set_up_python(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not (folder / ".ready").is_file():
        venv.create(folder, with_pip=True, clear=True)
        for packages in ((TORCH,), PYTHON_CLIENTS):
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        (folder / ".ready").touch()
    return python


def python_versions(python: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m\n"
        "for n in ('optimum-onnx', 'transformers', 'sentence-transformers', 'onnxruntime'): print(n, m.version(n))"
    )
    made = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in made.splitlines())


def run_tests(modules: Path, python: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        environment = os.environ | {"PLM_EXPORT_NODE_MODULES": str(modules), "PLM_EXPORT_OPTIMUM_PYTHON": str(python)}
        command = [sys.executable, "-m", "pytest", "-q", "tests/clients", f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        cases = ET.parse(report).getroot().iter("testcase") if report.is_file() else ()
        return {str(case.get("name")): _outcome(case) for case in cases}


def _outcome(case: ET.Element) -> str:
    return next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")


if __name__ == "__main__":
    sys.exit(main())
