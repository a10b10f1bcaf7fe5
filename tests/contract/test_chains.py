"""What stages promise one after the other: what one made, the next keeps, and a folder brings back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.distill.soft import SoftLabels
from converter.errors import SourceError
from converter.examples import Example
from converter.factorize.linears import LinearFactors
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.model_folder.shape_map import LayerShape
from converter.prune.structured import StructuredPruning
from converter.prune.threshold import ThresholdPruning, encoder_linears
from converter.reference import feed_of, torch_run
from converter.stage import Context, run_stage
from converter.surgery.resize import resized
from converter.validate.noise import round_to
from tests.tiny import FAMILIES, SENTENCES

TEXTS = tuple(Example(text) for text in SENTENCES)
SHRINK = StructuredPruning(0.5, 0.5, steps=1)


def answers(model: TorchModel) -> dict[str, np.ndarray]:
    encodings = [model.task.encode(model.tokenizer, e, model.max_length) for e in TEXTS[:6]]
    return dict(torch_run(model)(MODEL, feed_of(model, encodings)))


def saved_and_loaded(model: TorchModel, folder: Path) -> TorchModel:
    save_model(model, folder)
    loaded = load_source(str(folder))
    found, wanted = answers(loaded), answers(model)
    assert found.keys() == wanted.keys()
    assert all((found[name] == value).all() for name, value in wanted.items())
    return loaded


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_mask_filler_keeps_its_tied_weights_on_disk(
    family: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = load_source(str(tiny(family, "fill-mask")))
    made, _ = run_stage(SHRINK, source, Context(tmp_path, calibration=TEXTS))
    loaded = saved_and_loaded(made, tmp_path / "saved")
    tied = [n for m in (source, made, loaded) for n in (_outputs(m).data_ptr() == _embeddings(m).data_ptr(),)]
    assert tied == [True, True, True]
    assert loaded.shape_map == made.shape_map
    assert loaded.size_bytes < source.size_bytes


def test_pruned_output_weights_that_are_not_the_embeddings_may_not_be_missing(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = load_source(str(tiny("bert", "fill-mask")))
    made, _ = run_stage(SHRINK, source, Context(tmp_path, calibration=TEXTS))
    save_model(made, tmp_path / "saved")
    config = tmp_path / "saved" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    with pytest.raises(SourceError, match="missing or unexpected"):
        load_source(str(tmp_path / "saved"))


def test_a_pruned_sentence_model_keeps_its_pooling_on_disk(tiny_sentence_transformer: Path, tmp_path: Path) -> None:
    source = load_source(str(tiny_sentence_transformer))
    made, _ = run_stage(SHRINK, source, Context(tmp_path, calibration=TEXTS))
    loaded = saved_and_loaded(made, tmp_path / "saved")
    assert loaded.shape_map == made.shape_map is not None
    assert (loaded.max_length, loaded.task.name) == (source.max_length, source.task.name)
    again = saved_and_loaded(loaded, tmp_path / "again")
    assert np.allclose(np.linalg.norm(answers(again)["sentence_embedding"], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("options", [{"scope": "layer"}, {"scope": "global"}, {"score": "wanda", "scope": "row"}])
def test_distillation_keeps_the_exact_zeros_of_threshold(
    options: dict[str, Any], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = load_source(str(tiny()))
    ctx = Context(tmp_path, calibration=TEXTS, teacher=source)
    sparse, _ = run_stage(ThresholdPruning(0.6, **options), source, ctx)
    trained, _ = run_stage(SoftLabels(epochs=2, batch_size=8, learning_rate=2e-3), sparse, ctx)
    before, after = encoder_linears(sparse), encoder_linears(trained)
    for name, linear in before.items():
        assert torch.equal(linear.weight == 0, after[name].weight == 0), name
    assert any(not torch.equal(linear.weight, after[name].weight) for name, linear in before.items())


def _embeddings(model: TorchModel) -> torch.Tensor:
    return model.module.get_input_embeddings().weight  # type: ignore[operator, no-any-return]


def _outputs(model: TorchModel) -> torch.Tensor:
    return model.module.get_output_embeddings().weight  # type: ignore[operator, no-any-return]


def test_a_sub_layer_of_which_nothing_is_left_is_nothing_to_factor_or_to_round(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = load_source(str(tiny("bert", layers=2, hidden_size=64, intermediate_size=128)))
    bare = resized(source, [LayerShape((0, 1, 2, 3), ()), LayerShape((0, 1, 2, 3), tuple(range(128)))])
    made, record = run_stage(LinearFactors(ratio=0.8), bare, Context(tmp_path, calibration=TEXTS))
    assert record.facts["matrices"] == 2
    assert np.isfinite(answers(made)["logits"]).all()
    assert round_to(torch.zeros(4, 0), 8, 1).shape == (4, 0)
