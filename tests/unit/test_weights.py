"""Weights of a file beside the model's: found whatever rewrites did to them, and every fault in them seen."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.examples import Example
from converter.model_folder.load import load_source
from converter.reference import encode_probes
from converter.validate.factors import strays
from converter.validate.gains import lost_gains
from converter.validate.stored import Stored
from converter.validate.tables import TableFound, compared_rows, likely_tables, wrong_copies
from converter.validate.vectors import lost_vectors
from converter.validate.weights import _found, wrong_layers
from converter.validate.weights_match import Matched, known, match_product

IN, OUT = 48, 64
RANDOM = np.random.default_rng(0)
SOURCE = {name: RANDOM.standard_normal((IN, OUT)).astype(np.float32) for name in ("query", "key", "value")}
TABLE = RANDOM.standard_normal((80, IN)).astype(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """As int8 with a scale for each column holds them."""
    step = np.abs(values).max(axis=0) / 127
    return (np.rint(values / step) * step).astype(np.float32)


def stored(values: np.ndarray, bits: int = 8) -> Stored:
    return Stored("w", "product", values, bits)


def match_products(files: list[Stored], source: dict[str, np.ndarray]) -> Matched:
    found = [(f, *match_product(f, known(source))) for f in files]
    return Matched(tuple(b for _, own, _ in found for b in own), tuple((f.name, n) for f, _, n in found if n))


def match_tables(files: list[Stored], source: dict[str, np.ndarray]) -> list[TableFound]:
    return list(likely_tables([list(compared_rows(one, source)) for one in files], source))


def test_matrices_are_found_side_by_side_and_rounding_is_no_fault() -> None:
    made = match_products([stored(rounded(np.concatenate(list(SOURCE.values()), axis=1)))], SOURCE)
    assert [b.source for b in made.blocks] == list(SOURCE)
    assert not made.unknown
    assert max(b.errors.max() for b in made.blocks) < 1.5
    assert not list(strays(made.blocks, [], []))


def test_factors_that_a_vector_takes_back_are_no_fault() -> None:
    factors = np.exp(RANDOM.standard_normal(IN)).astype(np.float32)
    (block,) = match_products([stored(rounded(SOURCE["query"] * factors[:, None]))], SOURCE).blocks
    assert not list(strays([block], [(1 / factors).astype(np.float32)], []))
    (found,) = strays([block], [np.roll(1 / factors, 1).astype(np.float32)], [])
    assert found.side == "row"


GAIN = RANDOM.normal(1, 0.15, IN).astype(np.float32)
"""As those of trained models: nearly alike, so that exchanging its numbers moves answers little."""


def test_gains_are_those_of_the_model_with_the_factors_that_rows_take_back() -> None:
    factors = np.exp(0.5 * RANDOM.standard_normal(IN)).astype(np.float32)
    blocks = match_products([stored(rounded(SOURCE["query"] * factors[:, None]))], SOURCE).blocks
    given, smoothed = {"norm": GAIN}, (GAIN / factors).astype(np.float32)
    for good in (GAIN, smoothed, (3 * GAIN).astype(np.float16).astype(np.float32)):
        assert not list(lost_gains(given, [good], blocks, [GAIN]))
    for wrong in (np.roll(GAIN, 1), np.roll(smoothed, 1), -GAIN * np.sign(RANDOM.standard_normal(IN)), np.ones(IN)):
        (found,) = lost_gains(given, [wrong.astype(np.float32)], blocks, [GAIN])
        assert found.name == "the gain norm"
    assert list(lost_gains(given, [np.roll(GAIN, 1)], blocks, [GAIN + 1])), "a normalization that adds 1 to it"
    assert not list(lost_gains(given, [np.roll(GAIN, 1)], blocks, [])), "the float file has it in another form"


@pytest.mark.parametrize("spread", [0.3, 0.015], ids=["far from 1", "nearly 1"])
def test_a_gain_whose_numbers_changed_places_is_found_however_alike_they_are(spread: float) -> None:
    random = np.random.default_rng(4)
    gain = (1 + spread * random.standard_normal(256)).astype(np.float32)
    factors = np.exp(random.standard_normal(256)).astype(np.float32)
    weight = random.standard_normal((256, 300)).astype(np.float32)
    blocks = match_products([stored(rounded(weight * factors[:, None]))], {"w": weight}).blocks
    others = [random.uniform(0.5, 2, 256).astype(np.float32) for _ in range(20)]
    for divided in (1, factors):
        assert not list(lost_gains({"norm": gain}, [*others, gain / divided], blocks, [gain]))
        (found,) = lost_gains({"norm": gain}, [*others, np.roll(gain, 1) / divided], blocks, [gain])
        assert found.name == "the gain norm"


def test_where_factors_are_known_less_well_than_a_gain_varies_nothing_is_said_of_it() -> None:
    random = np.random.default_rng(5)
    gain = (1 + 0.002 * random.standard_normal(256)).astype(np.float32)
    weight = random.standard_normal((256, 40)).astype(np.float32)
    in_four = quantized_in_blocks(weight * np.exp(random.standard_normal(256)).astype(np.float32)[:, None])
    blocks = match_products([in_four], {"w": weight}).blocks
    assert not list(lost_gains({"norm": gain}, [np.roll(gain, 1)], blocks, [gain]))


def test_a_gain_that_hardly_varies_is_where_it_was_or_divided_by_factors_that_do() -> None:
    random = np.random.default_rng(6)
    gain = (1 + 0.004 * random.standard_normal(256)).astype(np.float32)
    other = (1 + 0.004 * random.standard_normal(256)).astype(np.float32)
    weight = random.standard_normal((256, 1024)).astype(np.float32)
    factors = np.exp(0.1 * random.standard_normal(256)).astype(np.float32)
    for by in (np.ones(256, np.float32), factors):
        blocks = match_products([quantized_in_blocks(weight * by[:, None])], {"w": weight}).blocks

        for shipped, lost in (([gain / by], False), ([np.roll(gain, 1)], True), ([], True)):
            found = lost_gains({"norm": gain}, [other, *shipped], blocks, [gain, other], left_alone=True)
            assert any(found) is lost


def quantized_in_blocks(values: np.ndarray) -> Stored:
    """As int4 with a scale for each 16 inputs of a column holds them."""
    parts = values.reshape(-1, 16, values.shape[1])
    steps = np.abs(parts).max(axis=1, keepdims=True) / 7
    made = (np.rint(parts / steps) * steps).reshape(values.shape).astype(np.float32)
    return Stored("w", "product", made, 4, block=16)


def test_a_scale_of_int4_weights_in_blocks_that_is_another_one_is_found() -> None:
    good = quantized_in_blocks(SOURCE["query"])
    assert not list(strays(match_products([good], SOURCE).blocks, [], []))
    wrong = good.values.copy()
    wrong[:, 5] *= 1.5
    (found,) = strays(match_products([Stored("w", "product", wrong, 4, block=16)], SOURCE).blocks, [], [])
    assert (found.side, found.index) == ("column", 5)


def test_a_row_that_rounds_to_zero_is_no_fault_and_one_that_is_zeroed_is() -> None:
    weight = SOURCE["query"][:, :2].copy()
    weight[33] = 1e-3
    kept = rounded(weight)
    assert not kept[33].any()
    assert not list(strays(match_products([stored(kept)], {"query": weight}).blocks, [], []))
    kept[7] = 0
    (found,) = strays(match_products([stored(kept)], {"query": weight}).blocks, [], [])
    assert (found.side, found.index) == ("row", 7)


@pytest.mark.parametrize("size", [0.4, 0.7, 1.3])
def test_a_row_of_equal_weights_that_are_all_rounded_the_same_way_is_no_fault(size: float) -> None:
    weight = SOURCE["query"].copy()
    steps = np.abs(weight).max(axis=0) / 127
    weight[20] = size * steps
    blocks = match_products([stored(rounded(weight))], {"query": weight}).blocks
    assert not list(strays(blocks, [], []))
    weight[20] = 40 * steps
    zeroed = rounded(weight)
    zeroed[20] = 0
    (found,) = strays(match_products([stored(zeroed)], {"query": weight}).blocks, [], [])
    assert (found.side, found.index) == ("row", 20)


def test_a_row_that_int4_in_blocks_rounds_to_zero_is_no_fault() -> None:
    random = np.random.default_rng(8)
    weight = random.standard_normal((256, 1024)).astype(np.float32)
    weight[20] = 0.03 * np.sign(weight[20])
    blocks = match_products([quantized_in_blocks(weight)], {"w": weight}).blocks
    assert not list(strays(blocks, [], []))


def test_a_table_in_few_bits_rounds_answers_too() -> None:
    """A file whose products all stay in float was held to the noise of float."""
    files = [Stored("words", "table", rounded(TABLE.T).T, 8), stored(SOURCE["query"], 32)]
    assert _found(files, {"words": TABLE}, {"query": SOURCE["query"]}, {}).bits == 8


@pytest.mark.parametrize("bits", [16, 32])
def test_smoothed_matrices_that_stay_in_float_are_the_models(bits: int) -> None:
    """Of a real classifier 14 of them were called wrong: factors of rows were fitted, and exact to five digits."""
    random = np.random.default_rng(1)
    weight = (SOURCE["query"] * np.exp(2 * random.standard_normal((IN, 1)))).astype(np.float32)
    factors = np.exp(random.standard_normal(IN)).astype(np.float32)
    behind = np.exp(random.standard_normal(OUT))
    kept = (weight * factors[:, None] * behind).astype(f"float{bits}").astype(np.float32)
    (block,) = match_products([stored(kept, bits)], {"query": weight}).blocks
    assert block.errors.max() < 3, "6 is the limit"
    taken_back = [(1 / factors).astype(np.float32), (1 / behind).astype(np.float32)]
    assert not [s for s in strays([block], taken_back, []) if s.side == "row"]
    wrong = kept.copy()
    wrong[:, 3] = np.roll(wrong[:, 3], 1)
    (block,) = match_products([stored(wrong, bits)], {"query": weight}).blocks
    assert int(block.errors.argmax()) == 3
    assert block.errors.max() > 6


def test_factors_that_a_normalization_takes_back_are_no_fault() -> None:
    factors = np.exp(RANDOM.standard_normal(IN)).astype(np.float32)
    gain = RANDOM.uniform(0.5, 2, IN).astype(np.float32)
    (block,) = match_products([stored(rounded(SOURCE["query"] * factors[:, None]))], SOURCE).blocks
    assert not list(strays([block], [gain / factors], [gain]))


def test_columns_that_another_matrix_takes_back_are_no_fault() -> None:
    next_one = RANDOM.standard_normal((OUT, IN)).astype(np.float32)
    factors = np.exp(RANDOM.standard_normal(OUT)).astype(np.float32)
    source = {"value": SOURCE["value"], "output": next_one}
    files = [stored(rounded(SOURCE["value"] / factors)), stored(rounded(next_one * factors[:, None]))]
    assert not list(strays(match_products(files, source).blocks, [], []))


def column(values: np.ndarray) -> np.ndarray:
    values[:, 5] *= 10
    return values


def negated(values: np.ndarray) -> np.ndarray:
    values[:, 5] *= -1
    return values


def row(values: np.ndarray) -> np.ndarray:
    values[7] = 0
    return values


def heads(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[:, 16:32], values[:, :16], values[:, 32:]], axis=1)


@pytest.mark.parametrize("fault", [column, negated, row, heads])
def test_a_fault_in_a_matrix_is_seen(fault: object) -> None:
    assert callable(fault)
    made = match_products([stored(rounded(fault(SOURCE["query"].copy())))], SOURCE)
    (block,) = made.blocks
    assert block.source == "query"
    assert block.errors.max() > 6 or list(strays(made.blocks, [], []))


def test_another_matrix_is_none_of_the_models() -> None:
    made = match_products([stored(RANDOM.standard_normal((IN, OUT)).astype(np.float32))], SOURCE)
    assert not made.blocks
    assert made.unknown == (("w", OUT),)


@pytest.mark.parametrize(("bits", "size"), [(32, 1e-7), (16, 4e-4), (8, 0.5 / 127)])
def test_rows_are_right_within_their_precision_and_no_further(bits: int, size: float) -> None:
    noise = RANDOM.uniform(-size, size, TABLE.shape) * np.abs(TABLE).max(axis=1, keepdims=True)
    values = (TABLE + noise).astype(np.float32)
    (found,) = match_tables([Stored("t", "table", values, bits)], {"words": TABLE})
    assert (found.rows, found.wrong) == (80, ())
    values[[3, 70]] = values[[70, 3]]
    (found,) = match_tables([Stored("t", "table", values, bits)], {"words": TABLE})
    assert found.wrong == (3, 70)


def test_a_table_may_begin_behind_the_rows_of_padding_and_end_early() -> None:
    (found,) = match_tables([Stored("t", "table", TABLE[2:50].copy(), 32)], {"positions": TABLE})
    assert (found.rows, found.wrong) == (48, ())
    late = TABLE[2:50].copy()
    late[-1] = 0
    (found,) = match_tables([Stored("t", "table", late, 32)], {"positions": TABLE})
    assert found.wrong == (49,)


def test_a_table_of_that_size_with_other_rows_is_a_fault_and_none_is_said_to_be_none() -> None:
    (found,) = match_tables([Stored("t", "table", -TABLE, 8)], {"words": TABLE})
    assert len(found.wrong) == 80
    (found,) = match_tables([Stored("t", "table", TABLE[:, :8], 8)], {"words": TABLE})
    assert found.stored is None


def test_a_table_that_the_exporter_computed_is_not_taken_for_another_one() -> None:
    """LongT5's encoder has a table of relative positions that are always the same, its decoder one that is read."""
    both = {"encoder": RANDOM.standard_normal((32, 8)).astype(np.float32), "decoder": TABLE[:32, :8].copy()}
    found = {f.source: f for f in match_tables([Stored("t", "table", both["decoder"], 32)], both)}
    assert found["decoder"].wrong == ()
    assert found["encoder"].stored is None
    twice = [Stored(name, "table", both["decoder"], 32) for name in ("t", "u")]
    assert {f.source: len(f.wrong) for f in match_tables(twice, both)} == {"encoder": 32, "decoder": 0}


def test_the_same_table_in_two_graphs_must_be_right_in_both() -> None:
    doubled = [Stored("t", "table", TABLE.copy(), 32), Stored("t", "table", 2 * TABLE, 32)]
    stored_ones = [list(compared_rows(one, {"words": TABLE})) for one in doubled]
    assert [len(f.wrong) for f in likely_tables(stored_ones, {"words": TABLE})] == [0]
    assert [len(f.wrong) for f in wrong_copies(stored_ones, {"words": TABLE})] == [80]
    assert not list(wrong_copies(stored_ones[:1], {"words": TABLE}))


def test_a_bias_is_looked_for_whole_and_in_parts_and_may_be_corrected() -> None:
    bias = RANDOM.standard_normal(96).astype(np.float32)
    before = [Stored("bias", "vector", bias, 32), Stored("zeros", "vector", np.zeros(96, np.float32), 32)]
    corrected = bias + 0.05 * RANDOM.standard_normal(96).astype(np.float32)
    assert not list(lost_vectors([corrected], before))
    assert not list(lost_vectors(list(corrected.reshape(3, 32)), before))
    assert not list(lost_vectors([np.concatenate([np.zeros(96, np.float32), corrected])], before))


@pytest.mark.parametrize("widths", [(96, 32, 32), (896, 128, 128), (512, 512, 448, 448), (96, 64, 32)])
def test_biases_of_several_widths_are_found_in_the_one_that_they_were_merged_into(widths: tuple[int, ...]) -> None:
    """Keys and values of fewer heads than queries, and layers of which some lost heads."""
    parts = [RANDOM.standard_normal(width).astype(np.float32) for width in widths]
    before = [Stored(f"bias {i}", "vector", part, 32) for i, part in enumerate(parts)]
    merged = np.concatenate(parts)
    assert not list(lost_vectors([merged], before, left_alone=True))
    merged[widths[0] : widths[0] + widths[1]] *= -1
    assert [lost.name for lost in lost_vectors([merged], before, left_alone=True)] == ["bias 1"]


@pytest.mark.parametrize("how", ["missing", "turned", "one number"])
def test_a_bias_that_is_lost_is_named(how: str) -> None:
    bias = RANDOM.standard_normal(96).astype(np.float32)
    found = {"missing": np.zeros_like(bias), "turned": np.roll(bias, 1), "one number": bias.copy()}[how]
    if how == "one number":
        found[5] += 3
    (lost,) = lost_vectors([found], [Stored("bias", "vector", bias, 32)])
    assert lost.name == "bias"


@pytest.mark.parametrize("cut", [False, True])
def test_where_a_precision_leaves_vectors_alone_one_that_is_nearly_alike_is_not_taken_for_another(cut: bool) -> None:
    shift = (0.01 * RANDOM.standard_normal(96)).astype(np.float32)
    alike = shift + 0.003 * RANDOM.standard_normal(96).astype(np.float32)
    before, zeros = [Stored("shift", "vector", shift, 32)], np.zeros_like(shift)
    there, gone = ([np.concatenate(list(one))] if cut else list(one) for one in ((alike, shift), (alike, zeros)))
    assert not list(lost_vectors(there, before, left_alone=True))
    assert not list(lost_vectors(gone, before)), "a correction may be as large"
    (lost,) = lost_vectors(gone, before, left_alone=True)
    assert lost.name == "shift"


def test_a_file_all_of_whose_matrices_are_in_blocks_is_known() -> None:
    def told(*blocks: int) -> bool:
        files = [Stored(str(i), "product", rounded(SOURCE["key"]), 8, block) for i, block in enumerate(blocks)]
        return _found(files, {}, SOURCE, {}).in_blocks

    assert (told(32, 32), told(32, 0), told(0), told()) == (True, False, False, False)


def test_the_layer_whose_weights_a_file_has_not_is_named_before_one_with_other_columns(
    tiny: Callable[..., Path],
) -> None:
    model = load_source(str(tiny("bert", layers=2)))
    probe = encode_probes(model, [Example("a good film")])[0]
    layers = {
        name: part.weight.detach().numpy()
        for name, part in model.module.named_modules()
        if type(part).__name__ == "Linear"
    }
    rolled, turned = (next(n for n in layers if n.endswith(end)) for end in ("1.attention.self.value", "query"))

    def file(*faults: str) -> list[Stored]:
        made = []
        for name, weight in layers.items():
            values = rounded(weight.T)
            if name == rolled and name in faults:
                values = np.roll(values, values.size // 3).reshape(values.shape)
            if name == turned and name in faults:
                values[:, 3] = values[::-1, 3]
            made.append(Stored(f"w{len(made)}", "product", values, 8))
        return made

    assert wrong_layers(model, file(), probe) == []
    assert wrong_layers(model, file(rolled), probe) == [rolled]
    assert wrong_layers(model, file(rolled, turned), probe) == [rolled, turned]


def test_columns_of_another_matrix_are_not_taken_for_a_narrow_one() -> None:
    wide = RANDOM.standard_normal((32, 640)).astype(np.float32)
    for narrow in np.split(RANDOM.standard_normal((32, 60)).astype(np.float32), 20, axis=1):
        assert match_product(stored(rounded(narrow)), known({"classifier": narrow}))[1] == 0
        assert not any(
            match_product(stored(part), known({"classifier": narrow}))[0] for part in np.split(wide, 10, axis=1)
        )
