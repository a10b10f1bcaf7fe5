"""While a model is traced, its code meets sets in one order; before and after, Python's own are there."""

import sys
from typing import Any

import pytest
import torch

from converter.forward import InOrder, traced_in_order


@pytest.fixture(scope="module")
def model() -> Any:
    import transformers

    config = transformers.ModernBertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, pad_token_id=0
    )
    return transformers.ModernBertModel(config)


def test_a_set_in_order_is_a_set() -> None:
    made = InOrder("banana")
    assert list(made) == ["b", "a", "n"]
    assert made == {"n", "a", "b"}
    assert "a" in made
    assert len(made) == 3
    made.add("c")
    made.discard("b")
    made.discard("z")
    assert list(made - {"n"}) == ["a", "c"]
    assert list(InOrder(["z", "a"]) | {"m"}) == ["z", "a", "m"]


def test_the_modules_of_a_model_have_their_own_set_only_while_it_is_traced(model: torch.nn.Module) -> None:
    space = vars(sys.modules[type(model).__module__])
    with traced_in_order(model):
        assert space["set"] is InOrder
        with traced_in_order(model):
            assert space["set"] is InOrder
        assert space["set"] is InOrder, "the inner one leaves what is not its own"
    assert "set" not in space
    with pytest.raises(RuntimeError, match="stopped"), traced_in_order(model):
        raise RuntimeError("stopped")
    assert "set" not in space


def test_what_a_model_answers_does_not_depend_on_it(model: torch.nn.Module) -> None:
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        wanted = model(input_ids=ids).last_hidden_state
        with traced_in_order(model):
            found = model(input_ids=ids).last_hidden_state
    assert torch.equal(found, wanted)
