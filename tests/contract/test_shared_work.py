"""What trainings and prunings of one process take from each other is what each would have worked out itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.distill.soft import SoftLabels
from converter.model_folder.load import load_source
from converter.prune.structured import StructuredPruning
from converter.search.shared import Shared
from converter.stage import Context, run_stage
from converter.structured import shrink
from converter.training import teacher
from tests.distilling import QUICK, TEXTS, digest
from tests.pruning import context


@pytest.fixture
def source(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


def counting(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """Count calls of a function of a module."""
    calls: list[str] = []
    before = getattr(module, name)

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(name)
        return before(*given, **more)

    monkeypatch.setattr(module, name, counted)
    return calls


def size_of(source: TorchModel, share: float) -> float:
    return share * sum(p.numel() for p in source.module.parameters()) / 1e6


def pruned(source: TorchModel, ctx: Context, share: float) -> TorchModel:
    return run_stage(StructuredPruning(size_mb=size_of(source, share), steps=2), source, ctx)[0]


def test_what_units_are_worth_is_worked_out_once_for_all_budgets(
    source: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [digest(pruned(source, context(tmp_path), share)) for share in (0.9, 0.8)]
    ctx = replace(context(tmp_path), shared=Shared())
    calls = counting(monkeypatch, shrink, "_removals")
    together = [digest(pruned(source, ctx, share)) for share in (0.9, 0.8)]
    assert together == alone
    assert len(set(alone)) == 2
    assert len(calls) == 3, "two steps of the first, the second step of the other"


def test_units_are_not_worth_by_other_text_what_they_were(
    source: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: another text, or another model, shares nothing."""
    ctx = replace(context(tmp_path), shared=Shared())
    calls = counting(monkeypatch, shrink, "_removals")
    pruned(source, ctx, 0.9)
    pruned(source, replace(ctx, calibration=ctx.calibration[:12]), 0.9)
    pruned(source, replace(ctx, seed=1), 0.9)
    assert len(calls) == 6


def test_a_teacher_that_was_asked_is_not_asked_again_and_the_student_is_the_same(
    source: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = pruned(source, context(tmp_path), 0.9)
    stage = SoftLabels(steps=2, **QUICK)
    ctx = Context(tmp_path, calibration=TEXTS, teacher=source)
    alone = digest(run_stage(stage, student, ctx)[0])
    shared = Shared()
    asked = []
    put = Shared.__setitem__

    def counted(kept: Shared, key: str, value: Any) -> None:
        asked.append(key)
        put(kept, key, value)

    monkeypatch.setattr(Shared, "__setitem__", counted)
    found = [digest(run_stage(stage, student, replace(ctx, shared=shared))[0]) for _ in range(2)]
    assert found == [alone, alone]
    assert len(asked) == 2, "a batch each"
    run_stage(replace(stage, augment=1), student, replace(ctx, shared=shared))
    assert len(asked) == 4, "the twin: other batches are asked about"
    assert teacher.KEPT not in {p.name for p in tmp_path.iterdir()}


def test_what_is_shared_stays_within_its_bound_and_what_was_used_last_stays() -> None:
    shared = Shared(100)
    for name in "abc":
        shared[name] = {"x": (np.zeros(5, np.float64),)}
    assert (list(shared), shared.held_bytes) == ["b", "c"] or (len(shared), shared.held_bytes) == (2, 80)
    assert "b" in shared
    shared["d"] = np.zeros(5, np.float64)
    assert sorted(shared) == ["b", "d"], "b was looked at after c"
    shared["large"] = np.zeros(50, np.float64)
    assert "large" not in shared
    assert shared.held_bytes == 80
