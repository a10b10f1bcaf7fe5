"""TFLite signatures of several texts, and weights that layers share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.errors import RecipeError, StageFailed
from converter.examples import Example, pad_batch
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.quantize.litert_dynamic import LitertDynamicInt8
from converter.stage import Context, run_stage
from converter.tflite.file import read_flat
from converter.tflite.lengths.batch import add_batches
from converter.tflite.lengths.rows import filled_rows
from converter.tflite.lower.lower import LowerTflite
from converter.tflite.model import TfliteModel
from converter.tflite.runner import TfliteRunner
from targets.tflite import Tflite
from tests.tiny import SENTENCES

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

LENGTHS = (8, 16)
BATCH = 3


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(work=tmp_path_factory.mktemp("work"), calibration=tuple(Example(s) for s in SENTENCES))


@pytest.fixture(scope="module", params=["bert", "albert", "roberta"])
def quantized(request: pytest.FixtureRequest, tiny: Callable[..., Path], ctx: Context) -> TfliteModel:
    """ALBERT's layers are one: its weights must be fitted, and be in the file, once."""
    lowered = run_stage(LowerTflite(LENGTHS), load_source(str(tiny(request.param, layers=2))), ctx)[0]
    return run_stage(LitertDynamicInt8(texts=2), lowered, ctx)[0]


def test_several_texts_a_call_are_answered_as_each_alone(quantized: TfliteModel, ctx: Context, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    shutil.copy(quantized.path, path)
    add_batches(path, BATCH)
    source = quantized.source
    one, several = TfliteRunner(quantized.path, source.specs), TfliteRunner(path, source.specs)
    assert (one.max_batch, several.max_batch, several.lengths) == (1, BATCH, LENGTHS)
    rows = filled_rows(source, ctx, 12, 4)
    rows[1] = rows[1].resized(5)
    feed = pad_batch(rows, source.specs[MODEL])  # four texts: a full call, and one with room left
    alone = np.concatenate([one.run(MODEL, {n: ids[i : i + 1] for n, ids in feed.items()})["logits"] for i in range(4)])
    assert np.array_equal(several.run(MODEL, feed)["logits"], alone)
    assert len(np.unique(alone.round(6), axis=0)) > 1, "texts that are answered alike show nothing"
    assert path.stat().st_size < 1.7 * quantized.size_bytes + 60_000


def test_every_weight_is_stored_once_shared_layers_too(quantized: TfliteModel) -> None:
    held = [b.data.nbytes for b in read_flat(quantized.path).buffers if b.data is not None]
    n_weights = sum(p.numel() for p in quantized.source.module.parameters())
    assert sum(held) < 1.7 * n_weights, sum(held) / n_weights


def test_an_architecture_that_mixes_texts_is_refused_by_the_operations_name(
    tiny: Callable[..., Path], ctx: Context, tmp_path: Path
) -> None:
    lowered = run_stage(LowerTflite((8, 16)), load_source(str(tiny("mpnet", layers=1))), ctx)[0]
    path = tmp_path / "model.tflite"
    shutil.copy(lowered.path, path)
    with pytest.raises(StageFailed, match="GATHER_ND may mix texts") as refused:
        add_batches(path, BATCH)
    assert "batch" in refused.value.hint
    assert path.read_bytes() == lowered.path.read_bytes()


def test_a_batch_of_any_length_is_refused_before_any_work(tiny: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match="one text per call"):
        Tflite(batch=2, any_length=True).stages("dynamic", {}, load_source(str(tiny())))
