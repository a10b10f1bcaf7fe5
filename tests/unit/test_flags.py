"""Flags over recipe over defaults."""

from pathlib import Path
from typing import Any

import pytest

from converter.commands.flags import Flags, output_folder, recipe_table
from converter.errors import UsageError
from converter.recipe import bind_recipe

RECIPE = """
model = "org/from-recipe"
targets = ["cpu-int8", "tflite"]
seed = 3
[quantize]
cpu-int8 = "none"
[limits]
agreement = 0.9
[limits.cpu-int8]
agreement = 0.5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(RECIPE)
    return path


def test_a_flag_beats_the_recipe_and_the_recipe_beats_the_default(recipe: Path) -> None:
    bound = bind_recipe(recipe_table(Flags(model="org/typed", recipe=recipe), []))
    assert (bound.model, bound.seed, bound.n_probes) == ("org/typed", 3, 400)
    assert bind_recipe(recipe_table(Flags(recipe=recipe, seed=9), [])).seed == 9


def test_target_flags_replace_those_of_the_recipe_with_all_that_was_theirs(recipe: Path) -> None:
    bound = bind_recipe(recipe_table(Flags(recipe=recipe, target=("tflite",)), []))
    assert [t.name for t in bound.targets] == ["tflite"]
    bound = bind_recipe(recipe_table(Flags(recipe=recipe, target=("cpu_int8,tflite",)), []))
    assert str(bound.precisions[0]) == "none"


@pytest.mark.parametrize("targets", ['targets = "cpu-int8"', ""], ids=["one name", "the default"])
def test_target_flags_replace_one_name_and_the_default_too(targets: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(f'model = "m"\n{targets}\n[quantize]\ncpu-int8 = "none"\n')
    bound = bind_recipe(recipe_table(Flags(recipe=path, target=("tflite",)), []))
    assert [(t.name, str(p)) for t, p in zip(bound.targets, bound.precisions, strict=True)] == [("tflite", "dynamic")]


def test_a_limit_of_a_target_that_is_not_made_is_refused_not_ignored() -> None:
    with pytest.raises(UsageError, match="'tflite' is not a target of this run"):
        bind_recipe(recipe_table(Flags(model="m", target=("cpu-int8",), limit=("tflite.agreement=1",)), []))


def test_a_limit_for_all_beats_the_recipes_limit_of_one_target(recipe: Path) -> None:
    bound = bind_recipe(recipe_table(Flags(recipe=recipe, limit=("agreement=0.99",)), []))
    cpu = bound.targets[0]
    assert bound.limits_for(cpu, "none").agreement == 0.99
    bound = bind_recipe(recipe_table(Flags(recipe=recipe, limit=("cpu_int8.agreement=0.7",), max_drop=0.01), []))
    assert bound.limits_for(cpu, "none").agreement == 0.7
    assert bound.limits_for(cpu, "none").max_drop == 0.01


def test_quantize_is_for_all_targets_or_for_the_one_that_is_named() -> None:
    table = recipe_table(Flags(target=("cpu-int8", "tflite"), quantize=("none", "cpu_int8=dynamic:smooth=no")), [])
    assert table["quantize"] == {
        "tflite": {"precision": "none"},
        "cpu-int8": {"precision": "dynamic", "smooth": "no"},
    }


def test_stages_run_in_the_order_typed() -> None:
    typed = ["m", "--distill", "hard", "--prune=structured", "--distill", "soft:temperature=2"]
    table = recipe_table(Flags(prune=("structured",), distill=("hard", "soft:temperature=2")), typed)
    assert [s["stage"] for s in table["compress"]] == ["distill.hard", "prune.structured", "distill.soft"]
    assert table["compress"][2] == {"stage": "distill.soft", "temperature": "2"}


def test_stages_of_unknown_order_prune_first() -> None:
    table = recipe_table(Flags(prune=("structured",), distill=("soft",)), [])
    assert [s["stage"] for s in table["compress"]] == ["prune.structured", "distill.soft"]


def test_lengths_go_to_the_targets_that_have_them() -> None:
    table = recipe_table(Flags(target=("tflite,cpu-int8",), seq_len="16, 32"), [])
    assert table["target"] == {"tflite": {"seq_len": ["16", "32"]}}
    assert bind_recipe(table).targets[0].seq_len == (16, 32)  # type: ignore[attr-defined]


@pytest.mark.parametrize("quantize", [(), ("static",), ("cpu-int8=static:samples=8",)])
def test_portable_is_an_option_of_the_cpu_target(quantize: tuple[str, ...]) -> None:
    table = recipe_table(Flags(target=("cpu-int8,tflite",), quantize=quantize, portable=True), [])
    assert table["quantize"]["cpu-int8"]["portable"] is True
    assert table["quantize"]["cpu-int8"]["precision"] == "static"


def test_portable_without_a_target_that_knows_it_is_refused() -> None:
    with pytest.raises(UsageError, match="portable"):
        recipe_table(Flags(target=("tflite",), portable=True), [])


def test_options_of_a_target_may_stand_behind_its_name() -> None:
    table = recipe_table(Flags(target=("tflite:seq_len=16+32",)), [])
    assert bind_recipe(table).targets[0].seq_len == (16, 32)  # type: ignore[attr-defined]


def test_a_folder_is_kept_by_its_full_path_and_a_hub_id_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert recipe_table(Flags(model="model"), [])["model"] == str(tmp_path / "model")
    assert recipe_table(Flags(model="org/model"), [])["model"] == "org/model"


@pytest.mark.parametrize(
    ("model", "wanted"),
    [("org/some_model", "some_model-export"), ("sample:default", "sample-default-export"), ("/a/b/", "b-export")],
)
def test_without_o_the_output_is_named_after_the_model(model: str, wanted: str) -> None:
    assert output_folder(Flags(), model) == Path(wanted)


@pytest.mark.parametrize("wrong", [{"targets": 3}, {"quantize": "x"}, {"limits": []}])
def test_a_recipe_of_wrong_types_is_refused_not_overrun(wrong: dict[str, Any], tmp_path: Path) -> None:
    import tomli_w

    path = tmp_path / "wrong.toml"
    path.write_text(tomli_w.dumps(wrong))
    with pytest.raises(UsageError):
        bind_recipe(recipe_table(Flags(model="m", recipe=path), []))
