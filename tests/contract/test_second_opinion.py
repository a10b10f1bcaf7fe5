"""The second opinion on a TFLite file is real: it agrees, notices what is read otherwise, and says where it is none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from converter.device.second_opinion import second_opinion
from converter.target import Runner
from converter.validate.checks import Status
from tests.contract.device_packages import Made

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")


def test_tensorflows_reference_kernels_agree(package: Made, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not installed")
    model = package.folder / "model.tflite"
    check, _ = second_opinion(model, package.source, package.reference, package.runner, tmp_path)
    assert (check.status, check.limit) == (Status.PASS, 1e-3), check.detail
    assert check.value is not None
    assert check.value < 1e-5


class Otherwise(Runner):
    """A runtime that reads the file otherwise: its logits come in another order."""

    def __init__(self, runner: Runner) -> None:
        self.graphs, self.lengths, self._run = runner.graphs, runner.lengths, runner.run

    def run(self, graph: str, feed: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value[..., ::-1] for name, value in self._run(graph, feed).items()}


def test_a_runtime_that_reads_the_file_otherwise_is_noticed(package: Made, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not installed")
    model = package.folder / "model.tflite"
    check, _ = second_opinion(model, package.source, package.reference, Otherwise(package.runner), tmp_path)
    assert check.status is Status.FAIL
    assert "at most 0.001 wanted" in check.detail


def test_no_second_opinion_is_never_passed_for_one(
    package: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "model.tflite"
    broken.write_bytes((package.folder / "model.tflite").read_bytes())
    monkeypatch.setattr("converter.device.second_opinion.CHILD", tmp_path / "absent.py")
    asked = (broken, package.source, package.reference, package.runner, tmp_path)
    check, _ = second_opinion(*asked)
    assert check.status is Status.NOT_RUN
    assert "does not run it" in check.detail
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    check, _ = second_opinion(*asked)
    assert (check.status, check.detail.split(":")[0]) == (Status.NOT_RUN, "TensorFlow is not installed")
