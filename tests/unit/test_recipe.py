from pathlib import Path
from typing import Any

import pytest

from converter.errors import RecipeError, UsageError
from converter.recipe import bind_recipe, load_recipe_table, recipe_table, save_recipe

FULL: dict[str, Any] = {
    "model": "some/model",
    "revision": "abc",
    "task": "text-classification",
    "targets": ["cpu-int8", "tflite"],
    "seed": 3,
    "threads": 2,
    "probes": 50,
    "calibration": "/data/train.tsv",
    "eval": "/data/dev.tsv",
    "compress": [{"stage": "prune.structured", "heads": 0.25, "ffn": 0.5}],
    "quantize": {"cpu-int8": "none", "tflite": {"precision": "dynamic"}},
    "target": {"tflite": {"seq_len": [16, 32]}},
    "limits": {"agreement": 0.9, "tflite": {"cosine": 0.5}},
}


def test_a_saved_recipe_runs_again_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = bind_recipe(FULL)
    save_recipe(recipe, tmp_path / "recipe.toml")
    assert bind_recipe(load_recipe_table(tmp_path / "recipe.toml")) == recipe


def test_the_plain_table_of_a_recipe_binds_to_an_equal_recipe() -> None:
    recipe = bind_recipe(FULL)
    assert bind_recipe(recipe_table(recipe)) == recipe


def test_dashes_and_underscores_are_alike_in_target_names() -> None:
    recipe = bind_recipe({"targets": ["cpu_int8"], "quantize": {"cpu_int8": "none"}})
    assert [t.name for t in recipe.targets] == ["cpu-int8"]
    assert recipe.precisions[0].name == "none"


def test_a_target_named_twice_is_made_once() -> None:
    assert len(bind_recipe({"targets": ["cpu-int8", "cpu_int8"]}).targets) == 1


def test_limits_of_one_target_overrule_those_for_all() -> None:
    recipe = bind_recipe(FULL)
    onnx, tflite = recipe.targets
    assert recipe.limits_for(onnx, "none").agreement == 0.9
    assert recipe.limits_for(tflite, "dynamic").cosine == 0.5


def test_a_compressed_model_is_held_to_decisions_not_to_numbers() -> None:
    plain = bind_recipe({"targets": ["ort-gpu"]})
    pruned = bind_recipe({"targets": ["ort-gpu"], "compress": [{"stage": "prune.structured"}]})
    target = plain.targets[0]
    assert plain.limits_for(target, "fp16").max_error is not None
    assert pruned.limits_for(target, "fp16").max_error is None
    assert pruned.limits_for(target, "fp16").agreement == 0.9
    strict = bind_recipe({**recipe_table(pruned), "limits": {"agreement": 0.99, "max_error": 0.1}})
    assert strict.limits_for(target, "fp16").agreement == 0.99
    assert strict.limits_for(target, "fp16").max_error == 0.1


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"modle": "x"}, "unknown key 'modle'", "'model'"),
        ({"targets": ["tflit"]}, "no target 'tflit'", "'tflite'"),
        ({"targets": 3}, "wanted a list of names", ""),
        ({"quantize": {"cpu-int8": "dynamc"}}, "has no precision 'dynamc'", "'dynamic'"),
        ({"quantize": {"ort-gpu": "fp16"}}, "not a target of this run", ""),
        ({"compress": [{"stage": "prune.structred"}]}, "no stage 'prune.structred'", "'prune.structured'"),
        ({"compress": [{"heads": 0.5}]}, "a stage needs its name", "stage ="),
        ({"compress": [{"stage": "prune.structured", "head": 0.5}]}, "unknown option 'head'", "'heads'"),
        ({"compress": [{"stage": "prune.structured", "heads": 2}]}, "heads: must be", ""),
        ({"compress": [{"stage": "quantize.dynamic"}]}, "belongs under [quantize]", "cpu-int8"),
        ({"seed": -1}, "wanted a whole number of at least 0", ""),
        ({"seed": 2**63}, "must be at most 9223372036854775807", ""),
        ({"limits": {"agreement": 1.5}}, "agreement: must be between", ""),
        ({"limits": {"agreemnt": 0.5}}, "unknown option 'agreemnt'", "'agreement'"),
        ({"limits": {"agreement": "none"}}, "limits.agreement: a limit is a number", "leave it out"),
        ({"limits": {"tflite": {"max-error": "none"}}}, "limits.tflite.max-error: a limit is a number", "leave it out"),
        ({"limits": {"max_error": float("inf")}}, "max_error: must be a finite number", "largest error"),
        ({"limits": {"ort-gpu": {"cosine": 0.9}}}, "'ort-gpu' is not a target of this run", ""),
        ({"target": {"tflite": 5}}, "target.tflite: wanted a table, found 5", ""),
        ({"target": {"tflite": {"seq_length": [16]}}}, "unknown option 'seq_length'", "'seq_len'"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_nearest_name(change: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        bind_recipe({**FULL, **change}, where="my.toml")
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_paths_in_a_recipe_are_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "my.toml").write_text('model = "model"\neval = "dev.tsv"\n', encoding="utf-8")
    table = load_recipe_table(tmp_path / "my.toml")
    assert table["model"] == str(tmp_path / "model")
    assert table["eval"] == str(tmp_path / "dev.tsv")


@pytest.mark.parametrize("content", [b"model = ", b"\xff\xfe", b"[[compress]\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "my.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"my\.toml"):
        load_recipe_table(tmp_path / "my.toml")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe_table(tmp_path / "none.toml")
