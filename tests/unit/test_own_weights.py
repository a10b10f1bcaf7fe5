"""A file's own weights, brought back to float without the factors that rewrites multiplied them by."""

import numpy as np
import pytest
import torch

from converter.validate.own_weights import OwnWeights, own_weights
from converter.validate.stored import Stored
from converter.validate.weights_match import Block, Matched, known, match_product
from tests.unit.test_weights import quantized_in_blocks

RANDOM = np.random.default_rng(3)
GAIN = RANDOM.normal(1, 0.1, 256).astype(np.float32)
FACTORS = (1.3 * np.exp(0.1 * RANDOM.standard_normal(256))).astype(np.float32)
"""Their median is not 1, nor are they all alike."""
UP = RANDOM.standard_normal((256, 512)).astype(np.float32)
DOWN = RANDOM.standard_normal((512, 256)).astype(np.float32)
BETWEEN = (0.8 * np.exp(0.1 * RANDOM.standard_normal(512))).astype(np.float32)


def stored(weight: np.ndarray) -> Stored:
    return quantized_in_blocks(weight.astype(np.float32))


def blocks_of(*pairs: tuple[Stored, str, np.ndarray]) -> list[Block]:
    return [b for one, name, weight in pairs for b in match_product(one, known({name: weight}), keep=True)[0]]


class Gated(torch.nn.Module):
    """Two layers, and a table that is the second one's weights, too."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(256, 512, bias=False), torch.nn.Linear(512, 256, bias=False)
        self.table = torch.nn.Embedding(256, 512)
        self.table.weight = self.down.weight


class Model:
    module = Gated()
    head = None


def scale_free(made: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(made - wanted) / np.linalg.norm(wanted))


def test_factors_that_a_gain_was_divided_by_are_taken_back_to_the_last_bit() -> None:
    """Rounding to four bits is off by a tenth; what the factors are off by would come on top of it."""
    scaled = stored(UP * FACTORS[:, None])
    own = OwnWeights(blocks_of((scaled, "up", UP)), {}, [GAIN / (GAIN / FACTORS)])
    with own.within(Model()):  # type: ignore[arg-type]
        made = Model.module.up.weight.detach().numpy().T
        assert scale_free(made, scaled.values / FACTORS[:, None]) < 1e-5
    assert scale_free(made, UP) < 0.15


def test_what_one_layer_is_divided_by_and_the_next_multiplied_leaves_their_product() -> None:
    up, down = stored(UP / BETWEEN), stored(DOWN * BETWEEN[:, None])
    own = OwnWeights(blocks_of((up, "up", UP), (down, "down", DOWN)), {})
    with own.within(Model()):  # type: ignore[arg-type]
        made = [layer.weight.detach().numpy().T for layer in (Model.module.up, Model.module.down)]
    assert scale_free(made[0] @ made[1], up.values @ down.values) < 0.01


def test_the_model_gets_its_weights_back_shared_ones_too() -> None:
    before = Model.module.down.weight
    own = OwnWeights(blocks_of((stored(DOWN), "down", DOWN)), {"table": np.zeros((256, 512), np.float32)})
    with pytest.raises(IndexError), own.within(Model()):  # type: ignore[arg-type]
        assert not Model.module.table.weight.any()
        assert Model.module.down.weight.any()
        Model.module.table(torch.tensor([1000]))
    assert Model.module.down.weight is before
    assert Model.module.table.weight is before


def test_where_not_all_is_found_or_found_twice_in_two_ways_nothing_is_compared() -> None:
    blocks = blocks_of((stored(UP), "up", UP), (stored(DOWN), "down", DOWN))
    other = blocks_of((stored(UP * 1.01), "up", UP))
    table = np.zeros((4, 4), np.float32)

    def missing(found: list[Block], unknown: int = 0, tables: tuple[np.ndarray, ...] = (table,), lost: int = 0) -> bool:
        matched = Matched(tuple(found), (("w", unknown),) if unknown else ())
        return bool(own_weights(matched, {"words": tables}, lost, ["up", "down"], []).missing)

    assert not missing(blocks)
    assert not missing([*blocks, blocks[0]]), "two graphs may hold the same"
    assert not missing(blocks, tables=(table, table.copy()))
    assert missing(blocks, unknown=3)
    assert missing(blocks, lost=1)
    assert missing(blocks[:1])
    assert missing([*blocks, *other])
    assert missing(blocks, tables=(table, table + 1))


def test_factors_known_by_fitting_alone_are_shaken_and_others_are_not() -> None:
    odd = np.exp(0.3 * RANDOM.standard_normal(256)).astype(np.float32)
    for factors, known_ones, same in ((odd, [], False), (odd, [odd], True), (np.ones(256), [], True)):
        own = OwnWeights(blocks_of((stored(UP * factors[:, None]), "up", UP)), {}, known_ones)
        made = []
        for shaken in (False, True):
            with own.within(Model(), shaken=shaken):  # type: ignore[arg-type]
                made.append(Model.module.up.weight.detach().numpy().copy())
        assert np.array_equal(made[0], made[1]) is same
