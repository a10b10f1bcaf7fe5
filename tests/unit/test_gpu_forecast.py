"""The forecast says which operations the GPU delegate would not take, and why: kinds, types and shapes."""

import pytest

from converter.device.gpu_forecast import OTHER_REWRITE, REWRITES, RULES, TAKEN, GpuForecast, OffGpu, TensorKind, reason

HALF = TensorKind("FLOAT32", (1, 8), constant=False)
IDS = TensorKind("INT32", (8,), constant=False)
AXIS = TensorKind("INT32", (), constant=True)
TABLE = TensorKind("INT8", (100, 8), constant=True)


def _of(kind: str, *shape: int, constant: bool = False) -> TensorKind:
    return TensorKind(kind, shape, constant)


@pytest.mark.parametrize(
    ("name", "given", "made", "why"),
    [
        ("ADD", (HALF, HALF), (HALF,), ""),
        ("GATHER_ND", (HALF, IDS), (HALF,), "does not support the operation"),
        ("CUMSUM", (IDS, AXIS), (IDS,), "of INT32: floats are wanted"),
        ("CUMSUM", (HALF, AXIS), (HALF,), ""),
        ("CUMSUM", (HALF, IDS), (HALF,), "its axis is no constant"),
        ("CAST", (IDS,), (_of("FLOAT32", 8),), ""),
        ("CAST", (_of("BOOL", 8),), (_of("FLOAT32", 8),), ""),
        ("CAST", (_of("BOOL", 8),), (IDS,), "from BOOL to INT32"),
        ("CAST", (_of("INT64", 8),), (IDS,), "from INT64 to INT32"),
        ("SELECT_V2", (_of("BOOL", 1, 8), HALF, _of("FLOAT32", constant=True)), (HALF,), ""),
        ("SELECT_V2", (_of("BOOL", 1, 8), _of("FLOAT32", 8), HALF), (HALF,), "another shape"),
        ("SELECT", (_of("BOOL", 8), IDS, IDS), (IDS,), "of INT32"),
        ("GATHER", (IDS, IDS), (IDS,), "from INT32"),
        ("GATHER", (HALF, IDS), (HALF,), ""),
        ("GATHER", (HALF, _of("INT32", 1, 8)), (HALF,), "not one-dimensional"),
        ("EMBEDDING_LOOKUP", (IDS, TABLE), (HALF,), ""),
        ("EMBEDDING_LOOKUP", (_of("INT32", 1, 8), TABLE), (HALF,), "not one-dimensional"),
        ("EMBEDDING_LOOKUP", (IDS, _of("FLOAT16", 100, 8, constant=True)), (HALF,), "in a table of FLOAT16"),
        ("SLICE", (HALF, AXIS, AXIS), (HALF,), "of 2 dimensions"),
        ("STRIDED_SLICE", (_of("FLOAT32", 1, 2, 3), AXIS, AXIS, AXIS), (HALF,), ""),
        ("DEQUANTIZE", (_of("INT16", 8),), (HALF,), "from INT16"),
        ("SUB", (AXIS, AXIS), (IDS,), "both sides are constants"),
        ("TRANSPOSE", (_of("FLOAT32", 1, 2, 3, 4, 5), AXIS), (HALF,), "more than four dimensions"),
    ],
)
def test_an_operation_stays_or_leaves_for_a_reason(
    name: str, given: tuple[TensorKind, ...], made: tuple[TensorKind, ...], why: str
) -> None:
    found = reason(name, given, made)
    assert bool(found) == bool(why)
    assert why in found


def test_every_rule_is_of_an_operation_that_is_taken() -> None:
    assert set(RULES) <= TAKEN
    assert OTHER_REWRITE
    assert not {name for name in REWRITES if name not in TAKEN and name in RULES}


def test_the_sentence_counts_what_leaves() -> None:
    assert GpuForecast(10, (), 1).sentence == "all 10 operations are supported by the GPU delegate"
    some = GpuForecast(10, (OffGpu("CUMSUM", 2, "of INT32", "…"), OffGpu("CAST", 1, "from BOOL", "…")), 1)
    assert some.sentence.startswith(
        "3 of 10 operations are not supported by the GPU delegate, which runs 1 piece: CUMSUM (of INT32)"
    )
    assert some.facts()["gpu_delegate"] == "7 of 10 operations"
