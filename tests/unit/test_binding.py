from dataclasses import dataclass
from typing import Literal

import pytest

from converter.binding import bind, option, parse_options, unbind
from converter.errors import RecipeError


@dataclass(frozen=True)
class Options:
    ratio: float = option(0.5, "share to remove", low=0.0, high=0.9)
    steps: int = option(1, "rounds", low=1)
    scope: Literal["layer", "global"] = option("layer", "where to rank")
    lengths: tuple[int, ...] = option((16, 32), "lengths", low=1)
    fast: bool = option(False, "skip the slow part")
    range: float | None = option(None, "clip")


def test_text_values_become_the_types_of_their_fields() -> None:
    made = bind(
        Options, {"ratio": "0.25", "steps": "3", "scope": "global", "lengths": ["8", "64"], "fast": "yes"}, "here"
    )
    assert made == Options(0.25, 3, "global", (8, 64), True, None)


def test_what_unbind_returns_binds_to_an_equal_value() -> None:
    made = Options(ratio=0.1, lengths=(4,), range=2.5)
    assert bind(Options, unbind(made), "here") == made
    assert unbind(Options()) == {}


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ({"ration": 0.5}, "here: unknown option 'ration'", "did you mean 'ratio'?"),
        ({"ratio": 1.5}, "here.ratio: must be between 0.0 and 0.9, found 1.5", "share to remove"),
        ({"ratio": "much"}, "here.ratio: wanted a number, found 'much'", ""),
        ({"ratio": True}, "here.ratio: wanted a number, found True", ""),
        ({"ratio": float("nan")}, "here.ratio: must be between 0.0 and 0.9, found nan", ""),
        ({"steps": 1.5}, "here.steps: wanted a whole number, found 1.5", ""),
        ({"steps": float("inf")}, "here.steps: wanted a whole number, found inf", ""),
        ({"range": "inf"}, "here.range: must be a finite number, found inf", "clip"),
        ({"range": float("nan")}, "here.range: must be a finite number, found nan", "clip"),
        ({"steps": 0}, "here.steps: must be at least 1, found 0", ""),
        ({"scope": "globl"}, "here.scope: 'globl' is not a choice", "did you mean 'global'?"),
        ({"lengths": [16, 0]}, "here.lengths: must be at least 1, found 0", ""),
        ({"fast": "perhaps"}, "here.fast: wanted true or false", ""),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(table: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        bind(Options, table, "here")
    assert str(caught.value).startswith(message)
    assert hint in caught.value.hint


def test_dashes_and_underscores_are_alike_in_names() -> None:
    @dataclass(frozen=True)
    class Two:
        round_to: int = option(1, "x")

    assert bind(Two, {"round-to": 16}, "here").round_to == 16


def test_inline_options_split_into_name_and_table() -> None:
    assert parse_options("structured:heads=0.5,lengths=16+32", "--prune") == (
        "structured",
        {"heads": "0.5", "lengths": ["16", "32"]},
    )
    assert parse_options("dynamic", "--quantize") == ("dynamic", {})
    with pytest.raises(RecipeError, match="'heads' is not key=value"):
        parse_options("structured:heads", "--prune")
