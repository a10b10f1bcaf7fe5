"""Pruning of single weights and blocks through whole models: what is promised from the recipe to the int8 file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter import convert
from converter.artifact import Bundle, TorchModel
from converter.binding import bind
from converter.errors import DataError, RecipeError
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.prune._sequence import TextRuns, in_groups, sums_of_group
from converter.prune.threshold import ThresholdPruning, encoder_linears
from converter.reference import encode_probes, feed_of, torch_run
from converter.registry import stage_class
from converter.report.summary import report_table
from converter.report.table import notes
from converter.stage import Context, run_stage
from converter.validate.zeros import zeros_facts
from tests.tiny import SENTENCES

PLAIN = tuple(Example(t) for t in SENTENCES)


def context(tmp_path: Path, texts: tuple[Example, ...] = PLAIN) -> Context:
    return Context(work=tmp_path, calibration=texts)


def answers(model: TorchModel) -> np.ndarray:
    encodings = [p.encoding for p in encode_probes(model, PLAIN)]
    return np.asarray(next(iter(torch_run(model)(MODEL, feed_of(model, encodings)).values())))


def pruned(source: TorchModel, tmp_path: Path, **options: Any) -> tuple[TorchModel, dict[str, Any]]:
    made, record = run_stage(bind(ThresholdPruning, options, "test"), source, context(tmp_path))
    return made, record.facts


@pytest.fixture
def source(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


@pytest.mark.parametrize("family", ["albert", "deberta-v2", "modernbert"])
def test_fitted_zeros_are_as_many_as_asked_for_in_every_family_and_open_again(
    family: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = load_source(str(tiny(family)))
    before = answers(source)
    made, facts = pruned(source, tmp_path, score="obs", pattern="2:4")
    assert facts["sparsity"] == pytest.approx(0.5)
    assert (answers(source) == before).all()
    save_model(made, tmp_path / "saved")
    assert (answers(load_source(str(tmp_path / "saved"))) == answers(made)).all()


@pytest.mark.parametrize("score", ["magnitude", "wanda"])
def test_a_fit_keeps_answers_nearer_than_zeros_alone(source: TorchModel, tmp_path: Path, score: str) -> None:
    bare, fitted = (answers(pruned(source, tmp_path, score=score, reconstruct=r)[0]) for r in (False, True))
    assert np.abs(fitted - answers(source)).mean() < 0.7 * np.abs(bare - answers(source)).mean()


def test_sums_are_those_of_real_tokens_however_texts_are_batched(source: TorchModel, tmp_path: Path) -> None:
    linears = encoder_linears(source)
    encodings = [p.encoding for p in encode_probes(source, PLAIN[:4])]
    group = in_groups(source, linears, [encodings[0]])[0]
    alone, together = (
        sums_of_group(TextRuns(source, batches), TextRuns(source, batches), group, _Ticks())
        for batches in ([[e] for e in encodings], [encodings])
    )
    assert list(group) == [n for n in linears if ".layer.0." in n]
    for name in group:
        assert alone[name].tokens == sum(e.length for e in encodings)
        torch.testing.assert_close(alone[name].xx, together[name].xx, rtol=1e-4, atol=1e-4)
        # Of the model itself Y is WX: what it should make is what it makes.
        torch.testing.assert_close(
            alone[name].xy.float(), (alone[name].xx.float() @ linears[name].weight.T), rtol=1e-3, atol=1e-3
        )


class _Ticks:
    def advance(self, steps: float = 1) -> None:
        """Nothing is shown."""

    def describe(self, text: str) -> None:
        """Nothing is shown."""


@pytest.mark.slow
def test_zeros_are_zero_in_the_shipped_files_and_the_report_says_so(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Rounding hands errors on to other weights (that it would fill zeros is shown in `test_rounding`)."""
    given = load_source(str(tiny(layers=1)))
    sparse, _ = pruned(given, tmp_path, score="obs", sparsity=0.75)
    save_model(sparse, tmp_path / "sparse")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES), encoding="utf-8")
    table = {
        "model": str(tmp_path / "sparse"),
        "targets": ["cpu-int8", "tflite"],
        "calibration": str(text),
        "quantize": {"cpu-int8": {"precision": "static", "max_noise": 10}},
        "target": {"tflite": {"seq_len": [16]}},
    }
    result = convert(table, tmp_path / "out")
    for target in result.targets:
        assert target.evaluation is not None, target.error
        zeros = target.evaluation.facts["zeros"]
        assert zeros["share"] >= zeros["share_of_source"] - 0.01 > 0.7, target.target
        assert zeros["deflated_bytes"] < (target.size_bytes or 0)
    said = notes(report_table(result))
    assert sum("of its weights are zero" in line for line in said) == 2


def test_a_dense_file_is_not_read_for_zeros(source: TorchModel) -> None:
    def read():  # type: ignore[no-untyped-def]  # noqa: ANN202
        raise AssertionError("the weights were read")
        yield

    assert zeros_facts(Bundle(Path("nowhere"), {MODEL: "nothing.onnx"}, source), read()) == {}


def test_the_record_says_what_an_archive_gains(source: TorchModel, tmp_path: Path) -> None:
    archives = [pruned(source, tmp_path, sparsity=s)[1]["archive_of_matrices"] for s in (0.3, 0.8)]
    assert archives[0]["deflated_before"] == archives[1]["deflated_before"] <= 1.01 * archives[0]["int8_bytes"]
    assert archives[1]["deflated_after"] < 0.6 * archives[1]["deflated_before"]
    assert archives[0]["deflated_after"] > archives[1]["deflated_after"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"pattern": "2:4", "sparsity": 0.6}, "sets 0.5 of the weights to zero"),
        ({"pattern": "1:4", "scope": "row"}, "leave scope out"),
        ({"score": "obs", "scope": "global"}, "layer by layer"),
        ({"reconstruct": True, "scope": "global"}, "layer by layer"),
        ({"pattern": "4"}, "not a pattern"),
        ({"pattern": "0:4"}, "everything"),
        ({"score": "hessian"}, "not a choice"),
        ({"sparsity": -0.5}, "between"),
    ],
)
def test_what_contradicts_itself_is_refused_when_the_recipe_is_read(table: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        bind(stage_class("prune.threshold"), table, "compress[0]")


def test_a_pattern_that_does_not_fit_is_refused_with_the_matrix_before_work(source: TorchModel) -> None:
    with pytest.raises(
        RecipeError, match=r"3x1 does not divide encoder.layer.0.attention.self.query, which is 32 x 32"
    ):
        bind(ThresholdPruning, {"pattern": "3x1"}, "test").check(source, has_text=True)
    bind(ThresholdPruning, {"pattern": "4x1"}, "test").check(source, has_text=True)


def test_nothing_left_of_a_layer_is_refused(source: TorchModel, tmp_path: Path) -> None:
    with torch.no_grad():
        source.module.base_model.encoder.layer[1].output.dense.weight.mul_(1e-6)  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match=r"no weights would be left in encoder\.layer\.1\.output\.dense"):
        pruned(source, tmp_path, scope="global")
    assert pruned(source, tmp_path, scope="layer")[1]["sparsity"] == pytest.approx(0.5)


def test_too_little_text_to_fit_to_is_refused(source: TorchModel, tmp_path: Path) -> None:
    stage = bind(ThresholdPruning, {"score": "obs"}, "test")
    with pytest.raises(DataError, match="needs at least 128"):
        stage.run(source, context(tmp_path, PLAIN[:2]))
    with pytest.raises(DataError, match="no text"):
        stage.run(source, context(tmp_path, ()))


def test_blocks_leave_as_a_whole(source: TorchModel, tmp_path: Path) -> None:
    made, _ = pruned(source, tmp_path, pattern="1x16", score="wanda", scope="row", sparsity=0.5)
    for linear in encoder_linears(made).values():
        gone = (linear.weight == 0).reshape(linear.out_features, -1, 16)
        assert (gone.all(2) == gone.any(2)).all()
        assert gone.any(2).float().mean() == pytest.approx(0.5)
