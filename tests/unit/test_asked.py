"""What was asked for one package is not asked again for the next, and nothing else is taken for it."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.reference import Probe, encode_probes, judge, run_probe, torch_run
from converter.stage import SILENT
from converter.task import Judged
from converter.validate import asked
from converter.validate.asked import Asked
from converter.validate.checks import Status
from converter.validate.noise import check_noise, rounded
from tests.tiny import SENTENCES


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny("bert", layers=1)))


@pytest.fixture(scope="module")
def probes(model: TorchModel) -> tuple[Probe, ...]:
    return encode_probes(model, [Example(s) for s in SENTENCES[:6]])


def asking(model: TorchModel, calls: list[int]) -> Callable[[Sequence[Probe]], Sequence[Judged]]:
    def ask(probes: Sequence[Probe]) -> Sequence[Judged]:
        calls.append(len(probes))
        return judge(model, probes, torch_run(model), SILENT, "")

    return ask


def test_the_same_texts_are_asked_once_and_others_or_fewer_of_them_anew(
    model: TorchModel, probes: tuple[Probe, ...]
) -> None:
    known, calls = Asked(), list[int]()
    first = known.again(model, "float", probes, asking(model, calls))
    again = known.again(model, "float", probes, asking(model, calls))
    assert calls == [6]
    assert all(a.outputs is b.outputs for a, b in zip(first, again, strict=True))
    known.again(model, "float", probes[:3], asking(model, calls))
    known.again(model, "8 bits", probes, asking(model, calls))
    assert calls == [6, 3, 6]


def test_what_is_too_wide_to_keep_is_asked_again(
    model: TorchModel, probes: tuple[Probe, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "MOST_VALUES", 3)
    known, calls = Asked(), list[int]()
    for _ in range(2):
        known.again(model, "float", probes, asking(model, calls))
    assert calls == [6, 6]
    assert not known.models


def test_noise_comes_out_equal_whether_it_was_asked_before_or_not(model: TorchModel, probes: tuple[Probe, ...]) -> None:
    judged, known = judge(model, probes, torch_run(model), SILENT, ""), Asked()

    def measured(asked: Asked | None) -> float:
        _, facts = check_noise(model, judged, torch_run(model), 8, SILENT, same=None, asked=asked)
        return float(facts["noise"]["rounding"])

    assert measured(known) == measured(known) == measured(None)


def test_in_blocks_a_factor_that_nothing_takes_back_costs_more_than_rounding_may(
    model: TorchModel, probes: tuple[Probe, ...]
) -> None:
    """Of other files it may: ranges that are fixed beforehand cost as much."""
    judged = partial(judge, model, probes, torch_run(model), SILENT, "")
    key = next(m for n, m in model.module.named_modules() if n.endswith("self.key"))

    def status(found: Sequence[Judged], *, in_blocks: bool) -> Status:
        return check_noise(model, found, torch_run(model), 8, SILENT, same=None, in_blocks=in_blocks)[0][0].status

    with rounded(model, 8):
        good = judged()
        hook = key.register_forward_hook(lambda _module, _given, out: out * 1.5)
        found = judged()
        hook.remove()
    assert status(good, in_blocks=True) is Status.PASS
    assert status(found, in_blocks=True) is Status.FAIL
    assert status(found, in_blocks=False) is Status.PASS


def test_texts_of_equal_lengths_answer_together_as_each_does_alone(
    model: TorchModel, probes: tuple[Probe, ...]
) -> None:
    run = torch_run(model)
    for one, alone in zip(
        judge(model, probes, run, SILENT, ""), (run_probe(model, p, run) for p in probes), strict=True
    ):
        assert one.example == alone.example
        np.testing.assert_allclose(one.outputs["logits"], alone.outputs["logits"], atol=1e-6)
