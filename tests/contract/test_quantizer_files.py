"""What quantizers write on the way: as long as it is needed, and nothing of it where they fail."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter import forecast
from converter.model_folder.load import load_source
from converter.onnx.export import ExportOnnx
from converter.onnx.model import OnnxModel
from converter.onnx.quantize import fallback, fit, observed
from converter.precision import Quantizer
from converter.quantize.dynamic import DynamicInt8
from converter.quantize.int4 import Int4Blocks
from converter.quantize.static import StaticInt8
from converter.stage import Context, run_stage
from tests.distilling import TEXTS
from tests.tiny_text import save_causal

ROWS, ROUNDED, SMOOTHED = "rows-*.f16", "rounded-*", "smoothed.onnx"
STAGES = [StaticInt8(samples=16), DynamicInt8(samples=16)]


@pytest.fixture(scope="module")
def exported(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, OnnxModel]:
    """Return the float graphs of a tiny encoder and of a model that writes text."""
    made = {}
    for kind, folder in {"encoder": tiny(), "writer": save_causal(tmp_path_factory.mktemp("writer") / "gpt2")}.items():
        source = load_source(str(folder))
        ctx = Context(work=tmp_path_factory.mktemp(kind), calibration=TEXTS, teacher=source)
        made[kind], _ = run_stage(ExportOnnx(), source, ctx)
    return made


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(work=tmp_path, calibration=TEXTS)


def lying(ctx: Context) -> dict[str, int]:
    """Return how many files of each kind lie in the scratch folder."""
    return {kind: len(list(ctx.work.rglob(kind))) for kind in (ROWS, ROUNDED, SMOOTHED)}


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.precision.name)
def test_observed_activations_are_gone_once_products_are_fitted(
    stage: Quantizer[Any], exported: dict[str, OnnxModel], ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, int]] = []
    fitted, asked = fallback.quantize_faithfully, fallback._answer_noise
    monkeypatch.setattr(fallback, "quantize_faithfully", lambda *a: seen.append(lying(ctx)) or fitted(*a))
    monkeypatch.setattr(fallback, "_answer_noise", lambda *a: seen.append(lying(ctx)) or asked(*a))
    made, _ = run_stage(stage, exported["encoder"], ctx)
    assert [s[ROWS] for s in seen] == [0] * len(seen)
    assert seen[0][ROUNDED] > 4
    assert seen[1] == {ROWS: 0, ROUNDED: seen[0][ROUNDED], SMOOTHED: 1}
    assert [p.name for p in made.files["model"].parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "distilbert"])
def test_the_disk_that_is_asked_for_holds_what_is_observed(
    family: str, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (forecast, observed):
        monkeypatch.setattr(module, "MAX_ROWS", 64)
    source = load_source(str(tiny(family)))
    ctx = Context(work=tmp_path, calibration=TEXTS)
    model, _ = run_stage(ExportOnnx(), source, ctx)
    found: list[int] = []
    fitted = fit.fit_products

    def noted(*args: Any, **more: Any) -> Any:
        found.append(sum(p.stat().st_size for p in tmp_path.rglob(ROWS)))
        return fitted(*args, **more)

    monkeypatch.setattr(fit, "fit_products", noted)
    run_stage(StaticInt8(samples=16), model, ctx)
    told = forecast.needs_by_pieces(source, [0])[1] - 2 * source.size_bytes
    assert 0.85 * told <= found[0] <= 1.2 * told, "the last text that is kept may have more tokens than are wanted"


ON_THE_WAY = ("prepare.search_factors", "fit.round_by_moments", "fallback._answer_noise")
BLOCKS = Int4Blocks(texts=4, block=32)


@pytest.mark.parametrize(
    ("kind", "stage", "where"),
    [
        *(("encoder", stage, where) for stage in STAGES for where in ON_THE_WAY),
        ("writer", DynamicInt8(samples=4), "written_int8.quantize_products"),
        ("writer", BLOCKS, "block_fit.round_by_moments"),
        ("writer", BLOCKS, "block_fit.write_block_products"),
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
def test_a_quantization_that_fails_leaves_no_file_and_what_others_made_stays(
    kind: str,
    stage: Quantizer[Any],
    where: str,
    error: BaseException,
    exported: dict[str, OnnxModel],
    ctx: Context,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (ctx.work / f"{stage.precision.name}-of-another").mkdir()
    before = sorted(ctx.work.rglob("*"))
    found: list[dict[str, int]] = []

    def fails(*_args: Any, **_more: Any) -> Any:
        found.append(lying(ctx))
        raise error

    monkeypatch.setattr(f"converter.onnx.quantize.{where}", fails)
    with pytest.raises(type(error)):
        stage.run(exported[kind], ctx)
    assert sum(found[0].values()) > 0, "there was something to remove"
    assert sorted(ctx.work.rglob("*")) == before
