"""Whatever bytes stand in a recipe, a data file, a label map, a model's JSON or a manifest: read, or refused by name.

`benchmarks/fuzz.py` sends the same readers millions of cases; here are a few, always the same ones.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import READERS, Case
from converter.bounds.printable import one_line, printable_json
from converter.errors import ExportError

SAME = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=60,
    deadline=None,
    derandomize=True,
)
KEYS = st.sampled_from(
    [
        "model",
        "targets",
        "compress",
        "stage",
        "quantize",
        "limits",
        "text",
        "label",
        "tokens",
        "ner_tags",
        "answers",
        "question",
        "context",
        "model_type",
        "architectures",
        "id2label",
        "hidden_size",
        "num_hidden_layers",
        "type",
        "path",
        "shape",
        "dtype",
        "data_offsets",
        "format",
        "files",
        "gate",
        "checks",
        "graphs",
        "sentence1",
        "sentence2",
        "examples",
        "output_range",
        "prompts",
        "pooling_mode",
        "eos_token_id",
        "peft_type",
        "layers",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4)
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=6)
BYTES = st.binary(max_size=200) | st.text(max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass"))
CONTENTS = BYTES | VALUES.map(lambda v: json.dumps(v).encode()) | TABLES.map(lambda v: json.dumps(v).encode())


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_reads_or_refuses_by_name(reader: str, tmp_path: Path) -> None:
    @SAME
    @given(CONTENTS)
    def reads(content: bytes) -> None:
        with contextlib.suppress(ExportError):
            READERS[reader](Case(tmp_path, content))

    reads()


@SAME
@given(VALUES)
def test_what_is_shown_of_anything_is_printable(value: Any) -> None:
    document = json.dumps(value, ensure_ascii=False)
    shown = printable_json(document)
    assert all(c.isprintable() or c in "\u00a0\u3000\u200c\u200d" or c.isspace() or ord(c) > 0xD7FF for c in shown)
    assert json.loads(shown) == json.loads(document) or value != value or "NaN" in document  # noqa: PLR0124
    assert "\x1b" not in one_line(str(value))
    assert "\n" not in one_line(str(value))
