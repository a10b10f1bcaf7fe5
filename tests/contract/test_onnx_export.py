"""Every family and every task goes to ONNX and answers like PyTorch, at any batch and length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.artifact import TorchModel
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.onnx.export import ExportOnnx
from converter.onnx.model import OnnxModel
from converter.onnx.runner import OnnxRunner
from converter.reference import torch_run
from converter.stage import Context, run_stage
from tests.tiny import FAMILIES, SENTENCES, TASKS

CASES = [(family, "text-classification") for family in FAMILIES] + [("bert", task) for task in TASKS[1:]]


def export(source: TorchModel, work: Path) -> tuple[OnnxModel, dict[str, Any]]:
    examples = tuple(Example(s, pair="Where is it?") for s in SENTENCES[:8])
    made, record = run_stage(ExportOnnx(), source, Context(work=work, calibration=examples))
    return made, record.facts


@pytest.mark.slow
@pytest.mark.parametrize(("family", "task"), CASES)
def test_the_file_answers_like_the_model_at_any_batch_and_length(
    family: str, task: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    # ModernBERT's second layer is the first with local attention; elsewhere one layer shows all there is.
    source = load_source(str(tiny(family, task, layers=2 if family == "modernbert" else 1)))
    made, facts = export(source, tmp_path)
    assert facts["max_relative_error"] <= 1e-4
    assert f"1x{source.max_length}" in facts["shapes"]
    runner, wanted_run = OnnxRunner(made.files), torch_run(source)
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (3, 2), (5, 17), (1, source.max_length)):
        feed = {name: np.zeros((batch, length), dtype=np.int64) for name in source.input_names}
        feed["input_ids"] += rng.integers(5, 40, (batch, length))
        feed["attention_mask"] += 1
        wanted, found = wanted_run(MODEL, feed), runner.run(MODEL, feed)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], value, atol=1e-4 * float(np.ptp(value) + 1))


def test_a_sentence_model_gives_both_hidden_states_and_the_embedding(
    tiny_sentence_transformer: Path, tmp_path: Path
) -> None:
    source = load_source(str(tiny_sentence_transformer))
    made, _ = export(source, tmp_path)
    assert source.specs[MODEL].output_names == ("last_hidden_state", "sentence_embedding")
    shapes = [[d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in _graph(made).output]
    assert shapes == [["batch", "length", 32], ["batch", 32]]


def test_shared_layers_stay_shared_in_the_file(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("albert", layers=3)))
    made, _ = export(source, tmp_path)
    weights = sum(np.prod(i.dims) * 4 for i in _graph(made).initializer if i.data_type == onnx.TensorProto.FLOAT)
    assert weights < source.size_bytes * 1.05


@pytest.mark.usefixtures("exported_anew")
def test_exporting_again_gives_the_same_bytes_and_leaves_the_source_as_it_was(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = load_source(str(tiny("distilbert", layers=1)))
    before = source.config._attn_implementation
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(export(source, tmp_path / name)[0])
    assert files[0].files[MODEL].read_bytes() == files[1].files[MODEL].read_bytes()
    assert source.config._attn_implementation == before
    _assert_tells_nothing(files[0])


def _assert_tells_nothing(made: OnnxModel) -> None:
    """Nothing of the machine that the file was made on."""
    raw = made.files[MODEL].read_bytes()
    for leak in (b"stack_trace", b".py", str(Path.cwd()).encode(), b"site-packages", b"transformers"):
        assert leak not in raw
    assert not any(n.doc_string or n.metadata_props for n in _graph(made).node)


def _graph(made: OnnxModel) -> Any:
    return onnx.load(str(made.files[MODEL])).graph


def test_a_cause_that_is_only_announced_on_its_first_line_is_told_with_the_next() -> None:
    from converter.onnx.export import first_cause

    error = RuntimeError("outer")
    error.__cause__ = ValueError("The following inconsistencies were found:\n\n  - the axis is 96\n  - more")
    assert first_cause(error) == "The following inconsistencies were found: - the axis is 96"
    assert first_cause(ValueError("one line.\nanother")) == "one line."
    assert first_cause(ValueError()) == "ValueError"
