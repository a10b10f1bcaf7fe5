"""What is known of a target stands on its class: no other place names one."""

import re
from pathlib import Path

import pytest

from converter import registry
from converter.errors import UsageError
from converter.registry import default_target, quantizers_with, target_class, target_names, targets_with

ROOT = Path(__file__).parents[2]
BLIND = ("recipe.py", "planning.py", "pipeline.py", "context.py", "commands/flags.py", "structured/budget.py")


@pytest.fixture
def fresh() -> None:
    default_target.cache_clear()


def test_one_target_is_made_where_none_is_named(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = default_target()
    assert chosen.default
    for wrong in (False, True):
        default_target.cache_clear()
        other = next(cls for cls in map(target_class, target_names()) if cls is not chosen)
        with monkeypatch.context() as patch:
            patch.setattr(chosen, "default", wrong)
            patch.setattr(other, "default", wrong)
            with pytest.raises(TypeError, match="one target must be the default"):
                default_target()


def test_options_are_found_at_those_that_have_them() -> None:
    assert targets_with("seq_len") == ("tflite",)
    assert targets_with("no_such_option") == ()
    assert quantizers_with("portable", "cpu-int8") == ("static",)
    assert quantizers_with("portable", "tflite") == ()
    with pytest.raises(UsageError):
        quantizers_with("portable", "toaster")


@pytest.mark.parametrize("name", BLIND)
def test_what_serves_every_target_names_none(name: str) -> None:
    text = (ROOT / "converter" / name).read_text(encoding="utf-8")
    names = "|".join(re.escape(n).replace("\\-", "[-_]") for n in registry.target_names())
    assert re.findall(rf'"(?:{names})"', text) == []
    assert re.findall(rf'"(?:{names})"', 'wanted = table.get("targets") or ["cpu-int8"]') == ['"cpu-int8"']
