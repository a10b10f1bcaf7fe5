"""A text that grows past what a Phi 3 learned first is read again there, as transformers reads it."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from converter.generate.loop import generate
from converter.generate.modules import graph_specs, torch_graphs_run
from converter.generate.positions import rope_switches_at
from tests.tiny_text import batch_for, continue_in_transformers, make_text_model, prompts, settings_of

LEARNED, NEW = 24, 16
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 5.0]}


@cache
def phi3() -> Any:
    rope = LONG | {"original_max_position_embeddings": LEARNED}
    return make_text_model("phi3", original_max_position_embeddings=LEARNED, rope_parameters=rope)


def both(texts: list[list[int]], beams: int, turn: int | None) -> tuple[Any, Any]:
    model = phi3()
    feed = batch_for(model, texts)
    settings = settings_of(model, max_new_tokens=NEW, beams=beams, rope_switches_at=turn, eos_ids=())
    found = generate(torch_graphs_run(model), graph_specs(model), feed, settings).sequences
    return found, continue_in_transformers(model, feed, max_new_tokens=NEW, num_beams=beams, eos_token_id=None)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_that_grows_past_the_turn_is_continued_as_by_transformers(beams: int) -> None:
    turn = rope_switches_at(phi3().config)
    assert turn == LEARNED
    for text in prompts(4, longest=20)[1:]:
        assert np.array_equal(*both([text], beams, turn))
    assert np.array_equal(*both(prompts(4, longest=20), beams, turn)), "a padded batch"


@pytest.mark.parametrize("length", [LEARNED, LEARNED + 1, LEARNED + 6])
def test_a_text_that_is_as_long_from_the_start_is_too(length: int) -> None:
    (text,) = [t for t in prompts(2, longest=length) if len(t) == length]
    assert np.array_equal(*both([text], 1, LEARNED))


def test_a_cache_that_is_kept_past_the_turn_writes_another_text() -> None:
    assert not all(np.array_equal(*both([text], 1, None)) for text in prompts(4, longest=20)[1:])


@pytest.mark.parametrize(("family", "config"), [("phi3", {}), ("llama", {}), ("gemma3", {})])
def test_other_positions_stay_what_they_are(family: str, config: dict[str, Any]) -> None:
    assert rope_switches_at(make_text_model(family, **config).config) is None
