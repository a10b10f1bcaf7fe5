"""What is shared is stored once, in every file that ships."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.binding import bind
from converter.errors import RecipeError, SourceError, UsageError
from converter.examples import Example
from converter.factorize.embeddings import EmbeddingFactors
from converter.factorize.linears import LinearFactors
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.onnx.export import ExportOnnx
from converter.prune.layers import LayerDropping
from converter.prune.threshold import ThresholdPruning
from converter.quantize.litert_static import LitertStaticInt8
from converter.quantize.static import StaticInt8
from converter.recipe import bind_recipe
from converter.reference import encode_probes, run_probe, torch_run
from converter.share.codebook import CodebookSharing
from converter.share.layers import LayerSharing
from converter.stage import Context, Stage, run_stage, run_stages
from converter.tflite.file import code_of, inputs_of, read_flat
from converter.tflite.model import TfliteModel
from tests.tiny import SENTENCES

PLAIN = tuple(Example(t) for t in SENTENCES)


def int8_bytes(model: TorchModel, work: Path) -> int:
    work.mkdir()
    made, _ = run_stages(
        [ExportOnnx(), StaticInt8(samples=8, max_noise=10)], model, Context(work=work, calibration=PLAIN)
    )
    return made.size_bytes


@pytest.mark.slow
def test_albert_stays_shared_in_int8(tiny: Callable[..., Path], tmp_path: Path) -> None:
    wide = {"hidden_size": 128, "intermediate_size": 512}
    sizes = [int8_bytes(load_source(str(tiny("albert", layers=n, **wide))), tmp_path / str(n)) for n in (1, 3)]
    weights = 4 * 128 * 128 + 2 * 128 * 512  # of the one layer, a byte each
    assert sizes[0] < 2 * weights  # int8, not float
    assert sizes[1] - sizes[0] < weights / 2  # two more passes: nodes, biases and ranges, no weights


def source_of(tiny: Callable[..., Path], family: str = "bert", task: str = "text-classification") -> TorchModel:
    return load_source(str(tiny(family, task)))


def answers(model: TorchModel) -> list[np.ndarray]:
    run = torch_run(model)
    return [v for p in encode_probes(model, PLAIN[:4]) for v in run_probe(model, p, run).outputs.values()]


def context(tmp_path: Path) -> Context:
    return Context(work=tmp_path, calibration=PLAIN)


STAGES: dict[str, Stage[TorchModel, TorchModel]] = {
    "codebook": CodebookSharing(exact=5),
    "codebook of 2 bits": CodebookSharing(bits=2, exact=0),
    "layers": LayerSharing(keep=2),
    "embedding factors": EmbeddingFactors(rank=12),
    "linear factors": LinearFactors(ratio=0.8),
}


@pytest.mark.parametrize("name", STAGES)
def test_what_stands_in_opens_again_from_its_folder_alone(tiny: Callable[..., Path], tmp_path: Path, name: str) -> None:
    source = source_of(tiny)
    before = answers(source)
    made, record = run_stage(STAGES[name], source, context(tmp_path))
    assert made.size_bytes < source.size_bytes
    assert record.facts["cost"]["mean_error"] > 0
    save_model(made, tmp_path / "saved")
    again = load_source(str(tmp_path / "saved"))
    assert again.size_bytes == made.size_bytes
    for wanted, found in zip(answers(made), answers(again), strict=True):
        np.testing.assert_array_equal(wanted, found)
    for wanted, found in zip(before, answers(source), strict=True):  # the source is untouched
        np.testing.assert_array_equal(wanted, found)


def test_a_damaged_list_of_stand_ins_is_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    made, _ = run_stage(STAGES["codebook"], source_of(tiny), context(tmp_path))
    save_model(made, tmp_path / "saved")
    path = tmp_path / "saved" / "stand_ins.json"
    good = path.read_text("utf-8")
    for bad in (good.replace('"codebook"', '"cookbook"'), good.replace('"span": 2', '"span": 4'), "[]"):
        path.write_text(bad, "utf-8")
        with pytest.raises(SourceError):
            load_source(str(tmp_path / "saved"))


def test_the_commonest_rows_stay_whole_and_a_finer_codebook_errs_less(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = source_of(tiny)
    rows = source.module.get_input_embeddings().weight
    whole, record = run_stage(CodebookSharing(exact=len(rows)), source, context(tmp_path))
    kept = whole.module.get_input_embeddings()
    tokens = torch.unique(torch.tensor([i for t in SENTENCES for i in source.tokenizer(t)["input_ids"]]))
    torch.testing.assert_close(kept(tokens), rows[tokens], atol=1e-5, rtol=0)
    assert not record.facts["pays"]
    assert "not worth it" in record.facts["note"]
    fine, coarse = (run_stage(CodebookSharing(bits=b, exact=0), source, context(tmp_path))[1].facts for b in (4, 2))
    assert fine["relative_error"] < coarse["relative_error"]


def test_tied_layers_are_stored_once_and_those_that_cost_least_are_tied(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = source_of(tiny)
    twin = copy.deepcopy(source.module.base_model.encoder.layer[1].state_dict())
    source.module.base_model.encoder.layer[2].load_state_dict(twin)
    made, record = run_stage(LayerSharing(keep=2), source, context(tmp_path))
    assert record.facts["ties"][0]["groups"] == [[0], [1, 2]]
    assert record.facts["cost"]["mean_error"] == 0
    layers = made.module.base_model.encoder.layer
    assert layers[1] is layers[2]
    assert layers[0] is not layers[1]
    save_model(made, tmp_path / "saved")
    sizes = [(f / "model.safetensors").stat().st_size for f in (tmp_path / "saved", source.folder)]
    layer_bytes = sum(p.numel() * 4 for p in layers[1].parameters())
    assert sizes[1] - sizes[0] > 0.9 * layer_bytes


def test_factors_for_what_flows_through_lose_less_of_it_than_those_of_the_weights() -> None:
    from converter.factorize._rank import factor_linear

    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 16, generator=rng) * torch.logspace(1, -1, 16)
    weight = torch.randn(24, 16, generator=rng)
    first, second, lost = factor_linear(weight, inputs.T @ inputs, 8)
    error = (inputs @ (weight - second @ first).T).pow(2).sum() / (inputs @ weight.T).pow(2).sum()
    assert float(error) == pytest.approx(lost, rel=0.05)
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    plain = (left[:, :8] * sizes[:8]) @ right[:8]
    assert error < 0.1 * (inputs @ (weight - plain).T).pow(2).sum() / (inputs @ weight.T).pow(2).sum()


def test_what_cannot_work_is_refused_before_work(tiny: Callable[..., Path]) -> None:
    masks, albert = source_of(tiny, "bert", "fill-mask"), source_of(tiny, "albert")
    for stage in (CodebookSharing(), EmbeddingFactors()):
        with pytest.raises(UsageError, match="shares its weights with the embedding"):
            stage.check(masks, has_text=True)
    with pytest.raises(UsageError, match="already share one set of weights"):
        LayerSharing().check(albert, has_text=True)
    with pytest.raises(RecipeError, match="below the model's 3 layers"):
        LayerSharing(keep=3).check(source_of(tiny), has_text=True)
    with pytest.raises(RecipeError, match="saves nothing"):
        EmbeddingFactors(rank=31).check(source_of(tiny), has_text=True)
    with pytest.raises(RecipeError, match="bits must be 4 or 2"):
        CodebookSharing(bits=3)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["share.codebook", "trim.vocabulary"], "trim.vocabulary cannot come after share.codebook"),
        (["factorize.linears", "prune.structured"], "prune.structured cannot come after factorize.linears"),
        (["share.layers", "prune.layers"], "prune.layers cannot come after share.layers"),
        (["share.codebook", "share.codebook"], "share.codebook cannot run twice"),
        (["prune.threshold", "prune.structured"], "prune.structured cannot come after prune.threshold"),
        (["prune.threshold", "share.layers"], "share.layers cannot come after prune.threshold"),
        (["prune.mixed", "prune.mixed"], "prune.mixed cannot run twice"),
    ],
)
def test_an_order_that_cannot_work_is_refused_when_the_recipe_is_read(stages: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        bind_recipe({"compress": [{"stage": s} for s in stages]})
    bind_recipe({"compress": [{"stage": s} for s in dict.fromkeys(reversed(stages))]})


@pytest.mark.parametrize("stages", [["prune.mixed", "share.layers"], ["share.layers", "prune.mixed"]])
def test_stages_that_go_together_in_no_order_are_refused_without_a_hint_that_would_be_refused_too(
    stages: list[str],
) -> None:
    with pytest.raises(RecipeError, match="cannot come after") as caught:
        bind_recipe({"compress": [{"stage": s} for s in stages]})
    assert caught.value.hint == "nor before it: leave one out"


@pytest.mark.parametrize(
    ("first", "then", "works"),
    [
        ({"stage": "prune.layers", "keep": 2}, {"stage": "prune.layers", "keep": 2}, False),
        ({"stage": "prune.layers", "keep": 2}, {"stage": "prune.layers", "keep": 3}, False),
        ({"stage": "prune.layers", "indices": [0, 2]}, {"stage": "prune.layers", "indices": [2]}, False),
        ({"stage": "prune.layers", "keep": 4}, {"stage": "prune.layers", "keep": 2}, True),
        ({"stage": "prune.layers", "keep": 1}, {"stage": "share.layers"}, False),
        ({"stage": "prune.layers", "keep": 2}, {"stage": "share.layers", "keep": 2}, False),
        ({"stage": "prune.layers", "keep": 3}, {"stage": "share.layers", "keep": 2}, True),
    ],
)
def test_a_stage_that_earlier_ones_leave_nothing_is_refused_when_the_recipe_is_read(
    first: dict[str, Any], then: dict[str, Any], works: bool
) -> None:
    if works:
        bind_recipe({"compress": [first, then]})
        return
    with pytest.raises(RecipeError, match=r"keep|kept|no layer|left"):
        bind_recipe({"compress": [first, then]})


@pytest.mark.parametrize("table", [{"keep": 3}, {"keep": 9}, {"indices": [0, 3]}])
def test_layers_that_the_model_lacks_are_refused_before_work(tiny: Callable[..., Path], table: dict[str, Any]) -> None:
    stage = bind(LayerDropping, table, "test")
    with pytest.raises(RecipeError, match=r"all 3 layers|no layer 3|has 3"):
        stage.check(source_of(tiny), has_text=True)


def test_tied_layers_are_pruned_weight_by_weight_as_one(tiny: Callable[..., Path], tmp_path: Path) -> None:
    tied, _ = run_stage(LayerSharing(keep=2), source_of(tiny), context(tmp_path))
    made, record = run_stage(ThresholdPruning(score="obs"), tied, context(tmp_path))
    layers = made.module.base_model.encoder.layer
    assert len({id(layer) for layer in layers}) == 2
    assert record.facts["sparsity"] == pytest.approx(0.5)


def test_a_codebook_survives_export_and_int8(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = source_of(tiny)
    made, _ = run_stage(CodebookSharing(exact=3), source, context(tmp_path))
    whole, less = int8_bytes(source, tmp_path / "whole"), int8_bytes(made, tmp_path / "less")
    rows, width = source.module.get_input_embeddings().weight.shape
    codebook = 256 * 2 * 4
    assert less < whole - rows * (width // 2 - 4) + codebook + 4096  # nodes and names of the lookup


def test_a_codebook_survives_lowering(tiny: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="the mobile extra is not installed")
    from converter.tflite.lower.lower import LowerTflite

    made, _ = run_stage(CodebookSharing(exact=3), source_of(tiny), context(tmp_path))
    _, record = run_stage(LowerTflite((16,)), made, context(tmp_path))
    assert record.facts["max_relative_error"] < 1e-4


@pytest.mark.slow
def test_a_shared_layer_is_there_once_in_a_tflite_file(tiny: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="the mobile extra is not installed")
    from converter.tflite.lower.lower import LowerTflite

    source = source_of(tiny, "albert")
    made, _ = run_stages([LowerTflite((16, 32)), LitertStaticInt8(texts=4)], source, context(tmp_path))
    assert isinstance(made, TfliteModel)
    linears = [m for m in source.module.modules() if isinstance(m, torch.nn.Linear)]
    assert sorted(weights_of_products(made.path)) == sorted(m.weight.numel() for m in linears)


def weights_of_products(path: Path) -> list[int]:
    """Return the sizes of all constants that linear layers read, each once."""
    model = read_flat(path)
    operations = [(g, o) for g in model.subgraphs for o in g.operators if code_of(model, o) == 9]
    tensors = [g.tensors[inputs_of(o)[1]] for g, o in operations]
    return [math.prod(t.shape) for t in {t.buffer: t for t in tensors}.values()]
