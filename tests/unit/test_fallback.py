"""Which products go back to float when int8 spoils the answers."""

from collections.abc import Sequence

import pytest

from converter.onnx.quantize.fallback import _fewest


class Asked:
    """Stands in for the written file: whatever culprits must be in float, and what was written last."""

    def __init__(self, *culprits: str) -> None:
        self.culprits, self.written = set(culprits), [""]

    def __call__(self, kept: Sequence[str]) -> bool:
        self.written = list(kept)
        return self.culprits <= set(kept)


@pytest.mark.parametrize("culprit", ["e", "f", "g", "h"])
def test_one_culprit_alone_stays_in_float(culprit: str) -> None:
    asked = Asked(culprit)
    assert _fewest(["x"], list("efgh"), list("xabcdefgh"), asked) == ["x", culprit]
    assert asked.written == ["x", culprit], "the file must be that of what is returned"


def test_culprits_that_only_all_together_are_enough_stay_together() -> None:
    asked = Asked("a", "h")
    assert _fewest([], list("efgh"), list("abcdefgh"), asked) == list("abcdefgh")
    assert asked.written == list("abcdefgh")
    pair = Asked("e", "h")
    assert _fewest([], list("efgh"), list("abcdefgh"), pair) == list("efgh")
    assert pair.written == list("efgh")
