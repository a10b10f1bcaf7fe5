"""`plan` tells beforehand what a run then makes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.commands.cli import run
from converter.errors import UsageError
from converter.examples import Example
from converter.forecast import forecast_of
from converter.model_folder.load import load_source
from converter.planning import plan_recipe
from converter.recipe import bind_recipe
from converter.stage import Context, run_stage
from tests.tiny import SENTENCES

PLAIN = tuple(Example(t) for t in SENTENCES)
STAGES: dict[str, dict[str, Any]] = {
    "trim.vocabulary": {},
    "prune.structured": {"heads": 0.5, "ffn": 0.5, "reconstruct": False, "texts": 8, "steps": 1, "scope": "layer"},
    "prune.layers": {"keep": 2},
    "share.codebook": {"exact": 3},
    "share.layers": {"keep": 2},
    "factorize.embeddings": {"rank": 12},
    "factorize.linears": {"ratio": 0.8},
}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    return tmp_path / "texts.txt"


@pytest.mark.parametrize("name", STAGES)
def test_the_size_that_is_foretold_is_the_size_that_is_made(
    tiny: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    source = load_source(str(tiny("bert", layers=3, hidden_size=64, intermediate_size=128)))
    (stage,) = bind_recipe({"compress": [{"stage": name, **STAGES[name]}]}).compress
    ctx = Context(work=tmp_path, calibration=PLAIN, teacher=source)
    before = forecast_of(source)
    told = stage.forecast(before, source, ctx)
    made, _ = run_stage(stage, source, ctx)
    found = forecast_of(made)
    assert told != before
    for stored in (4, 2, 1):
        assert told.bytes(stored) == pytest.approx(found.bytes(stored), rel=0.03), stored
        assert told.bytes(stored) < before.bytes(stored)


def test_a_plan_has_a_row_for_every_step_and_makes_nothing(
    tiny: Callable[..., Path], texts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    flags = ["--target", "tflite,ort-gpu", "--calibration", str(texts), "--trim", "vocabulary", "--distill", "soft"]
    assert run(["plan", str(tiny("bert")), *flags, "--json"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert [s["step"] for s in made["steps"]] == ["source", "trim.vocabulary", "distill.soft"]
    sizes = [s["megabytes"]["tflite"] for s in made["steps"]]
    assert sizes[0] > sizes[1] == sizes[2]
    assert made["steps"][2]["seconds"] >= made["steps"][0]["seconds"] == 0
    assert all(s["milliseconds"] is None for s in made["steps"])  # no table for this target: nothing is made up
    assert list((tmp_path / "here").iterdir()) == []


def test_a_plan_refuses_what_a_run_would(tiny: Callable[..., Path]) -> None:
    recipe = bind_recipe({"model": str(tiny("bert")), "compress": [{"stage": "trim.vocabulary"}]})
    with pytest.raises(UsageError, match="no text to find"):
        plan_recipe(recipe)
