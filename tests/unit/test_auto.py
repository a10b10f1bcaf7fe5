"""`auto`: the fastest candidate that passes its gate is kept, and all of them are told of."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from converter.artifact import Bundle, TorchModel
from converter.errors import RecipeError, StageFailed
from converter.graphs import GraphSpec
from converter.model_folder.load import load_source
from converter.package.manifest import read_manifest
from converter.pipeline import Result, run_recipe
from converter.precision import Precision
from converter.recipe import ChosenPrecision, Recipe, bind_recipe, recipe_table
from converter.report.summary import report_table
from converter.report.table import notes
from converter.stage import Context
from converter.target import Runner
from converter.validate.checks import Status
from converter.validate.speed import not_worth_it
from tests.torch_runner import Change, Feed, Outputs, TorchRunner, TorchTarget, unchanged

Make = Callable[..., Result]


def slow(out: Outputs, feed: Feed) -> Outputs:
    time.sleep(0.004)
    return out


def wrong(out: Outputs, feed: Feed) -> Outputs:
    return {"logits": np.roll(out["logits"], 1, axis=-1)}


CHANGES: Mapping[str, Change] = {"quick": unchanged, "slow": slow, "wrong": wrong}


@dataclass(frozen=True)
class Racing(TorchTarget):
    """A target whose precisions are told apart by what is written into the file."""

    name = "racing"
    asked: ClassVar[list[str]] = []

    def stages(self, precision: str, options: Mapping[str, Any], model: TorchModel) -> tuple[()]:
        self.asked.append(precision)
        return ()

    def emit(self, given: Any, source: TorchModel, folder: Path, ctx: Context) -> Bundle:
        if self.asked[-1] == "missing":
            raise StageFailed("no such kernel")
        bundle = super().emit(given, source, folder, ctx)
        (folder / "model.bin").write_text(self.asked[-1], encoding="utf-8")
        return bundle

    def open(self, folder: Path, specs: Mapping[str, GraphSpec], threads: int = 1) -> Runner:
        return TorchRunner(self.model, CHANGES[(folder / "model.bin").read_text(encoding="utf-8")])

    model: ClassVar[TorchModel]


@pytest.fixture
def race(tiny: Callable[..., Path], tmp_path: Path) -> Make:
    def run(*candidates: str) -> Result:
        model = load_source(str(tiny()))
        own = tuple(Precision(name, TorchTarget.own[0].limits) for name in candidates)
        target = type("Made", (Racing,), {"auto": candidates, "own": own, "precisions": candidates, "model": model})()
        return run_recipe(Recipe(str(tiny()), (target,), (ChosenPrecision("auto"),), n_probes=20), tmp_path / "out")

    return run


def test_the_fastest_that_passes_is_kept(race: Make) -> None:
    result = race("slow", "wrong", "quick", "missing")
    made = result.targets[0]
    assert (result.exit_code, made.status, made.precision) == (0, Status.PASS, "quick")
    assert made.evaluation is not None
    rows = {r["precision"]: r for r in made.evaluation.facts["candidates"]}
    assert [rows[n]["status"] for n in ("slow", "wrong", "quick", "missing")] == ["PASS", "FAIL", "PASS", "FAIL"]
    assert rows["quick"]["milliseconds"] < rows["slow"]["milliseconds"]
    assert "no such kernel" in rows["missing"]["said"]
    assert (result.out / "racing" / "model.bin").read_text() == "quick"
    assert sorted(p.name for p in result.out.iterdir() if p.is_dir()) == ["racing"]
    manifest = read_manifest(result.out / "racing")
    assert manifest["precision"] == "quick"
    # Times of a race are another's next time: the package's own recipe names what won, the report tells of all.
    assert "candidates" not in manifest["gate"]["facts"]
    assert manifest["recipe"]["quantize"]["racing"]["precision"] == "quick"
    assert sum("auto tried" in line for line in notes(report_table(result))) == 4


def test_where_none_passes_the_gate_has_failed(race: Make) -> None:
    result = race("wrong", "missing")
    assert result.exit_code == 3
    assert result.targets[0].status is Status.FAIL
    assert (result.out / "racing.rejected").is_dir()


def test_where_nothing_could_be_made_the_error_is_told(race: Make) -> None:
    result = race("missing", "missing")
    assert result.exit_code != 0
    assert "no such kernel" in (result.targets[0].error or "")


def test_auto_is_a_precision_of_every_target_and_has_no_options() -> None:
    recipe = bind_recipe({"targets": ["cpu-int8"], "quantize": {"cpu-int8": "auto"}})
    assert bind_recipe(recipe_table(recipe)) == recipe
    with pytest.raises(RecipeError, match="auto has no option"):
        bind_recipe({"targets": ["cpu-int8"], "quantize": {"cpu-int8": "auto:smooth=false"}})


@pytest.mark.parametrize(
    ("size_ratio", "milliseconds", "worth"),
    [
        (0.25, {"package": 9.0, "float32": 5.0, "source": 10.0}, True),
        (1.01, {"package": 4.0, "float32": 5.0, "source": 10.0}, True),
        (1.01, {"package": 6.0, "float32": 5.0, "source": 10.0}, False),
        (1.01, {"package": 6.0, "source": 10.0}, True),
        (1.01, {"package": 11.0, "source": 10.0}, False),
    ],
)
def test_neither_smaller_nor_faster_is_not_worth_it(
    size_ratio: float, milliseconds: dict[str, float], worth: bool
) -> None:
    said = not_worth_it(size_ratio, milliseconds)
    assert (said is None) == worth
    if said is not None:
        assert "neither smaller" in said
