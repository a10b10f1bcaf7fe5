"""The workflows under docs/ci are run step by step in bash, with the real program on a tiny model, offline.

What is not run is said: the steps of other people's actions (checkout, cache, upload), and the installation, in whose
place stands the program of this checkout. What those would bring (the last release, a key) is brought by the test.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB, GITLAB = ROOT / "docs/ci/github-actions.yml", ROOT / "docs/ci/gitlab-ci.yml"
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
NOT_RUN = {
    "actions/checkout@v4",
    "actions/setup-python@v5",
    "actions/cache/restore@v4",
    "actions/cache/save@v4",
    "actions/upload-artifact@v4",
    "github/codeql-action/upload-sarif@v3",
}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Step:
    name: str
    run: str
    env: dict[str, str]


def github_steps() -> Iterator[Step]:
    table = yaml.safe_load(GITHUB.read_text(encoding="utf-8"))
    (job,) = table["jobs"].values()
    for step in job["steps"]:
        if "uses" in step:
            assert step["uses"] in NOT_RUN, f"nobody runs {step['uses']}"
            continue
        yield Step(step["name"], step["run"], {**table["env"], **step.get("env", {})})


def gitlab_steps() -> Iterator[Step]:
    table = yaml.safe_load(GITLAB.read_text(encoding="utf-8"))
    for stage in table["stages"]:
        (job,) = [one for one in table.values() if isinstance(one, dict) and one.get("stage") == stage]
        parts = table[job["extends"]]["before_script"] + job["script"]
        for number, line in enumerate(parts):
            yield Step(f"{stage} {number}", line, dict(table["variables"]))


@dataclass
class Machine:
    """A checkout with a recipe and a model, and `plm-export` on the path."""

    folder: Path
    secrets: dict[str, str]
    installed: int = 0

    def run(self, step: Step) -> str:
        """Run one step as the service does: bash, and the first command that fails ends it; returns what it wrote."""
        if "pip install" in step.run:
            self._pretend_to_install(step)
            return ""
        env = {k: EXPRESSION.sub(lambda m: self.secrets[m.group(1)], v) for k, v in step.env.items()}
        assert not EXPRESSION.search(step.run), "expressions belong into env, where a shell does not read them"
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step.run],
            cwd=self.folder,
            env={**os.environ, **env, "PATH": f"{self.folder.parent / 'bin'}:{os.environ['PATH']}"} | self._given(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{step.name}: {done.stdout}{done.stderr}"
        assert not re.search(r"[\x1b\r]", done.stdout + done.stderr), "escapes where there is no terminal"
        return done.stdout + done.stderr

    def _given(self) -> dict[str, str]:
        base = self.folder.parent
        return {
            "GITHUB_STEP_SUMMARY": str(base / "summary.md"),
            "RUNNER_TEMP": str(base),
            "SIGNING_KEY": self.secrets["secrets.SIGNING_KEY"],
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }

    def _pretend_to_install(self, step: Step) -> None:
        """Check what would be installed: this project, with extras that it has."""
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        for line in step.run.strip().splitlines():
            listed = re.fullmatch(r"python -m pip install --no-deps -r (\S+)", line)
            found = re.fullmatch(r"python -m pip install 'plm-export\[([\w,]+)\]'", line)
            assert found or listed, line
            if listed:
                assert (ROOT / "docs" / "ci" / listed.group(1)).is_file()
            if found:
                assert set(found.group(1).split(",")) <= set(extras)
                self.installed += 1
        sys.stderr.write(f"NOT RUN, replaced by the program of this checkout: {step.run}\n")


@pytest.fixture
def machine(tiny: Callable[..., Path], plm_export: list[str], tmp_path: Path) -> Machine:
    pytest.importorskip("model_signing", reason="the extra `signing` is not installed")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder = tmp_path / "checkout"
    shutil.copytree(tiny("bert", "text-classification", layers=1), folder / "my-model")
    (folder / "my-model" / "LICENSE").write_text("Permission is granted\n", encoding="utf-8")
    recipe = 'model = "my-model"\ntargets = ["cpu-int8"]\nprobes = 20\n[quantize]\ncpu-int8 = "none"\n'
    (folder / "model.toml").write_text(recipe, encoding="utf-8")
    program = tmp_path / "bin" / "plm-export"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(plm_export)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    private = Ed25519PrivateKey.generate()
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "public.pem").write_bytes(private.public_key().public_bytes(*public))
    return Machine(folder, {"secrets.SIGNING_KEY": private.private_bytes(*formats).decode()})


def named(steps: Iterator[Step], part: str) -> Step:
    (found,) = [step for step in steps if part in step.run]
    return found


def check_release(machine: Machine) -> None:
    """What the last steps left is the signed output, and a step that finds it compares with it."""
    from converter import verify

    release = machine.folder / "release" / "cpu-int8"
    assert len(verify(release, key=machine.folder.parent / "public.pem")["signed_by"]) == 64


def test_the_steps_for_github_do_what_they_say(machine: Machine) -> None:
    said = {step.name: machine.run(step) for step in github_steps()}
    assert machine.installed == 1
    assert "PASS" in said["Verify"]
    assert (machine.folder / "out" / "report.sarif").is_file()
    assert not (machine.folder.parent / "key.pem").exists()
    summary = machine.folder.parent / "summary.md"
    assert summary.read_text(encoding="utf-8") == "There is no earlier release to compare with.\n"
    check_release(machine)
    machine.run(named(github_steps(), "plm-export diff"))  # as the next run would, which the cache gives a release
    text = summary.read_text(encoding="utf-8")
    assert "texts get the same answer" in text
    assert "(100 %)" in text
    assert "**Operators**: the same." in text


def test_the_steps_for_gitlab_do_what_they_say(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file-variable").write_text(machine.secrets["secrets.SIGNING_KEY"], encoding="utf-8")
    machine.secrets["secrets.SIGNING_KEY"] = str(tmp_path / "file-variable")  # a variable of the type file is its path
    for step in gitlab_steps():
        machine.run(step)
    assert machine.installed == 2
    check_release(machine)


def test_a_step_that_fails_fails_its_job(machine: Machine) -> None:
    """The twin: without a licence the same first step ends with its exit code, and nothing is left."""
    (machine.folder / "my-model" / "LICENSE").unlink()
    with pytest.raises(AssertionError, match=r"Export: (?s:.*)does not state its licence.*PLM400"):
        machine.run(named(github_steps(), "--recipe"))
    assert not (machine.folder / "out").exists()


def test_a_step_that_nobody_can_run_is_seen() -> None:
    table: dict[str, Any] = yaml.safe_load(GITHUB.read_text(encoding="utf-8"))
    (job,) = table["jobs"].values()
    assert {step["uses"] for step in job["steps"] if "uses" in step} == NOT_RUN
    assert {step.name for step in github_steps()} > {"Install", "Export", "Verify", "Sign"}
