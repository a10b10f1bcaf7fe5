"""Trials of a search take from the cache what stages have made before, in any search."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from converter.examples import Example
from converter.model_folder.load import load_source
from converter.recipe import Recipe, bind_recipe
from converter.reference import capture_reference
from converter.search.workbench import Workbench
from converter.stage import SILENT
from converter.stage_cache.cache import open_cache
from tests.tiny import SENTENCES


def recipe(model: Path, **stage: Any) -> Recipe:
    return bind_recipe({"model": str(model), "targets": ["cpu-int8"], "compress": [{"stage": "prune.layers", **stage}]})


def test_what_begins_alike_is_made_once_over_all_searches(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny()
    said: list[str] = []
    made = []
    examples = tuple(Example(s) for s in SENTENCES[:4])
    for name in ("first", "second"):
        (work := tmp_path / name).mkdir()
        source = load_source(str(folder))
        cache = open_cache(str(tmp_path / "cache"), note=said.append)
        reference = capture_reference(source, examples, SILENT)
        bench = Workbench(source, examples, reference, work, cache=cache)
        made.append(bench.compress(recipe(folder, keep=2), 1.0).model)
        if name == "first":
            assert said == []
    assert [line for line in said if line.startswith("prune.layers: taken from the cache")] == said != []
    assert made[0].digest == made[1].digest
    said.clear()
    other = bench.compress(recipe(folder, keep=1), 1.0).model
    assert said == [], "the twin: another option is another model"
    assert other.digest != made[0].digest
