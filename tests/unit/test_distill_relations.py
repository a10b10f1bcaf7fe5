"""Relations between tokens: blind to padding, to width and to which heads are left."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from converter.artifact import TorchModel
from converter.errors import UsageError
from converter.model_folder.load import load_source
from converter.model_folder.shape_map import LayerShape
from converter.stage import SILENT
from converter.surgery.resize import resized
from converter.training.layer_map import ObservedForward, map_layers
from converter.training.relations import cross_relation_loss, plan_relations, relation_loss
from converter.training.texts import encode_texts, feed_batch
from tests.distilling import TEXTS

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


def states(width: int, seed: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 5, width, generator=rng) for _ in range(3)]


@pytest.fixture(scope="module")
def source(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny("bert")))


def test_equal_relations_lose_nothing_and_others_do() -> None:
    own = states(8, 0)
    assert relation_loss(own, own, MASK, 2).item() == pytest.approx(0.0, abs=1e-6)
    assert relation_loss(own, states(8, 1), MASK, 2).item() > 0.1


def test_a_rotation_of_a_head_keeps_its_relations() -> None:
    own = states(8, 0)
    rotation = torch.linalg.qr(states(8, 2)[0][0, :4, :4])[0]
    turned = [torch.cat([s[..., :4] @ rotation, s[..., 4:]], dim=-1) for s in own]
    assert relation_loss(turned, own, MASK, 2).item() == pytest.approx(0.0, abs=1e-6)
    # Across heads it does not: they are told apart.
    mixed = [s[..., [0, 4, 1, 5, 2, 6, 3, 7]] for s in own]
    assert relation_loss(mixed, own, MASK, 2).item() > 0.01


def test_padding_is_neither_looked_at_nor_counted() -> None:
    own, wanted = states(8, 0), states(8, 1)
    loss = relation_loss(own, wanted, MASK, 2)
    spoiled = [s.clone() for s in own]
    for s in spoiled:
        s[1, 2:] = 1e3
    assert torch.equal(relation_loss(spoiled, wanted, MASK, 2), loss)
    seen = [s.clone() for s in own]
    seen[0][1, 1] += 1
    assert not torch.isclose(relation_loss(seen, wanted, MASK, 2), loss)


def test_students_of_any_width_learn_relations() -> None:
    assert relation_loss(states(6, 0), states(8, 1), MASK, 2).item() > 0


STEPS = torch.tensor([[1, 1, 1], [1, 0, 0]])
"""Of two answers, those that are learned."""


def crossing(width: int, seed: int) -> list[torch.Tensor]:
    """Return queries of the answers, and keys and values of the texts."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, n, width, generator=rng) for n in (3, 5, 5)]


def test_a_decoder_that_looks_at_the_text_as_its_teacher_loses_nothing() -> None:
    own, wanted = crossing(8, 0), crossing(8, 1)
    assert cross_relation_loss(own, own, MASK, STEPS, 2).item() == pytest.approx(0.0, abs=1e-6)
    loss = cross_relation_loss(own, wanted, MASK, STEPS, 2)
    assert loss.item() > 0.1
    assert cross_relation_loss(crossing(6, 0), wanted, MASK, STEPS, 2).item() > 0, "of any width"
    for part in range(3):
        # Each of the three counts, and what is padding does not.
        spoiled, seen = ([s.clone() for s in own] for _ in range(2))
        spoiled[part][1, 2:] = 1e3
        seen[part][1, 0] += 1
        assert torch.equal(cross_relation_loss(spoiled, wanted, MASK, STEPS, 2), loss)
        assert not torch.isclose(cross_relation_loss(seen, wanted, MASK, STEPS, 2), loss)


def test_an_unevenly_pruned_student_learns_of_its_last_layer_with_heads(source: TorchModel) -> None:
    neurons = tuple(range(64))
    cut = resized(source, [LayerShape((0, 1, 2), neurons), LayerShape((1, 2), neurons), LayerShape((), neurons)])
    plan = plan_relations(cut, source, (0, 1, 2), None)
    # Layer 2 has no heads; two heads of 8 against four: two relation heads split both.
    assert (plan.student_layer, plan.teacher_layer, plan.n_heads) == (1, 1, 2)
    assert plan_relations(cut, source, (0, 1, 2), 16).n_heads == 16
    three = resized(source, [LayerShape((0, 1, 2), neurons)] * 3)
    assert plan_relations(three, source, (0, 1, 2), None).n_heads == 2  # 24 and 32 have no third in common
    with pytest.raises(UsageError, match="no heads"):
        plan_relations(source, cut, map_layers(3, 3), None)


@pytest.mark.parametrize("family", ["bert", "distilbert", "albert", "modernbert", "deberta-v2"])
def test_queries_keys_and_values_are_those_of_the_layer(family: str, tiny: Callable[..., Path]) -> None:
    model = load_source(str(tiny(family)))
    feed = feed_batch(model, encode_texts(model, TEXTS[:3], 32, SILENT), range(3), torch.device("cpu"))
    with torch.inference_mode():
        seen = [ObservedForward(model, relations=layer)(feed).relations for layer in (0, 2)]
        plain = ObservedForward(model)(feed)
    shape = (*feed["input_ids"].shape, 32)
    assert all(tuple(s.shape) == shape for relations in seen for s in relations)
    assert plain.relations == ()
    assert not torch.equal(seen[0][0], seen[0][2])
    assert not torch.equal(seen[0][0], seen[1][0])


def test_no_hook_is_left_on_the_module(source: TorchModel) -> None:
    feed = feed_batch(source, encode_texts(source, TEXTS[:1], 32, SILENT), [0], torch.device("cpu"))
    ObservedForward(source, relations=1)(feed)
    assert not any(m._forward_hooks for m in source.module.modules())


def test_a_family_that_is_not_known_is_refused(source: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.errors import SourceError

    monkeypatch.setattr("converter.surgery.resize.families", dict)
    with pytest.raises(SourceError, match="cannot be pruned"):
        plan_relations(replace(source), source, (0, 1, 2), None)
