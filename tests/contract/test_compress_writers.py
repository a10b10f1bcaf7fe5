"""Models that write text, made smaller: layers of either stack, heads in groups, and neurons."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.errors import ExportError, RecipeError, SourceError, StageFailed, UsageError
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.model_folder.shape_map import LayerShape
from converter.registry import stage_class, stage_names
from converter.stage import Context, check_stage, run_stage
from converter.surgery.resize import resized, shallower, shape_map_of
from tests.tiny import SENTENCES
from tests.tiny_text import save_causal
from tests.writers import KINDS, context, loaded_once, scores

HEADS = tuple(kind for kind in KINDS if kind != "t5")
LIKE = {
    "marian": ("bart", "mbart", "m2m_100"),
    "t5": ("mt5",),
    "gpt2": (),
    "llama": ("mistral", "qwen2"),
    "qwen3": (),
    "gemma2": ("gemma",),
}
"""Families by those whose layers are the same: each is cut once as a bare model."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TorchModel]:
    return loaded_once(KINDS, tmp_path_factory)


def halved(model: TorchModel, *, heads: bool) -> TorchModel:
    """Return the model without the first head of each attention, and with every other neuron."""
    shapes = shape_map_of(model).layers
    skipped = 1 if heads else 0
    return resized(model, [LayerShape(s.heads[skipped:], s.neurons[::2], s.cross[skipped:]) for s in shapes])


@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_model_comes_back_from_its_folder_to_the_last_bit(
    kind: str, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    whole = source(kind)
    n_layers = len(shape_map_of(whole).layers)
    made = halved(shallower(whole, (*range(n_layers - 2), n_layers - 1)), heads=kind in HEADS)
    save_model(made, tmp_path / "made")
    again = load_source(str(tmp_path / "made"))
    assert again.digest == made.digest != whole.digest
    assert again.shape_map == made.shape_map
    assert again.cache == made.cache != whole.cache
    example = context(whole, tmp_path).calibration[0]
    assert np.array_equal(scores(again, example, made), scores(made, example))
    if kind == "marian":
        with pytest.raises(ExportError, match=r"lacks target\.spm"):
            scores(again, example)


@pytest.mark.parametrize("kind", HEADS)
def test_removing_what_writes_zeros_changes_nothing(kind: str, source: Callable[[str], TorchModel]) -> None:
    """The heads and neurons that go are those that are named: with their output weights at zero nothing is missed."""
    import copy

    import torch

    from converter.surgery.cut import matrix_of
    from converter.surgery.resize import family_of

    whole = source(kind)
    whole = replace(whole, module=copy.deepcopy(whole.module))
    with torch.no_grad():
        for part in family_of(whole).layers(whole.module):
            matrix_of(part.attention_output)[:, : part.head_dim] = 0
            matrix_of(part.ffn_output)[:, 1::2] = 0
            if part.cross:
                matrix_of(part.cross.attention_output)[:, : part.cross.head_dim] = 0
    example = context(whole, Path()).calibration[0]
    wanted, found = scores(whole, example), scores(halved(whole, heads=True), example)
    assert np.abs(wanted - found).max() < 1e-4 * np.ptp(wanted)
    shapes = shape_map_of(whole).layers
    other = resized(whole, [LayerShape(s.heads[:-1], s.neurons[::2], s.cross[:-1]) for s in shapes])
    assert np.abs(wanted - scores(other, example)).max() > 1e-2 * np.ptp(wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_says_what_the_loop_with_a_cache_says(kind: str, source: Callable[[str], TorchModel]) -> None:
    from converter.reference import feed_of, torch_run

    made = halved(source(kind), heads=kind in HEADS)
    asked = [made.task.encode(made.tokenizer, Example(t), made.max_length) for t in SENTENCES[:3]]
    written = [made.task.continued(made.specs, torch_run(made), one) for one in asked]
    import torch

    feed = feed_of(made, written)
    cached = made.task.answer(made.specs, torch_run(made), feed)["logits"]
    with torch.no_grad():
        tensors = {n: torch.from_numpy(rows) for n, rows in feed.items()}
        whole = made.whole()(**tensors)["logits"]
        steps = made.task.learned_steps(tensors, written).bool().numpy()
    n_last = cached.shape[1]
    for row, own in enumerate(steps[:, -n_last:]):
        wanted, found = cached[row][own], whole[row].numpy()[-n_last:][own]
        assert np.abs(wanted - found).max() < 1e-4 * np.ptp(wanted)


def test_every_family_that_writes_is_tried() -> None:
    from converter.registry import families

    tried = {*LIKE, *(kind for others in LIKE.values() for kind in others)}
    assert {kind for kind, family in families().items() if family.writes} == tried
    assert set(LIKE) == set(KINDS)


@pytest.mark.parametrize("kind", sorted(kind for others in LIKE.values() for kind in others))
def test_a_family_alike_loses_what_writes_nothing(kind: str) -> None:
    import copy

    import torch

    from converter.registry import families
    from converter.surgery.cut import matrix_of
    from tests.tiny_text import make_text_model

    family, model = families()[kind], make_text_model(kind)
    parts = family.layers(model)
    with torch.no_grad():
        for part in parts:
            matrix_of(part.ffn_output)[:, 1::2] = 0
            if not family.fixed_heads:
                matrix_of(part.attention_output)[:, : part.head_dim] = 0
    ids = torch.arange(5, 17)[None]
    more = {"decoder_input_ids": ids[:, :7]} if model.config.is_encoder_decoder else {}
    made = copy.deepcopy(model)
    for i, part in enumerate(parts):
        across = tuple(range(part.cross.n_heads if part.cross else 0))
        heads = tuple(range(0 if family.fixed_heads else 1, part.n_heads))
        family.resize_layer(made, i, LayerShape(heads, tuple(range(0, part.n_neurons, 2)), across))
    with torch.no_grad():
        wanted, found = (m(input_ids=ids, **more).logits for m in (model, made))
    assert float((wanted - found).abs().max()) < 1e-4 * float(wanted.max() - wanted.min())
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in model.parameters())


def test_the_last_head_of_a_layer_stays(source: Callable[[str], TorchModel]) -> None:
    shapes = shape_map_of(source("gpt2")).layers
    with pytest.raises(StageFailed, match="keeps one head"):
        resized(source("gpt2"), [LayerShape((), s.neurons) if i else s for i, s in enumerate(shapes)])
    with pytest.raises(StageFailed, match="relative positions"):
        halved(source("t5"), heads=True)


@pytest.mark.parametrize(
    ("kind", "options", "kept"),
    [
        ("t5", {"decoder": 1}, [0, 1, 2, 3]),
        ("t5", {"encoder": 2, "decoder": 1}, [0, 2, 3]),
        ("t5", {"indices": (1, 4)}, [1, 4]),
        ("gpt2", {"keep": 1}, [0]),
    ],
)
def test_layers_of_either_stack_are_dropped(
    kind: str, options: dict[str, Any], kept: list[int], source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    _, record = run_stage(stage_class("prune.layers")(**options), source(kind), Context(tmp_path))
    assert record.facts["layers_kept"] == kept


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("t5", {}, "two stacks"),
        ("t5", {"decoder": 3}, "no deeper than its teacher"),
        ("t5", {"keep": 6}, "two stacks"),
        ("gpt2", {"keep": 3}, "no deeper than its teacher"),
        ("gpt2", {"decoder": 1}, "one stack"),
        ("t5", {"indices": (0, 1)}, "no layers of the decoder"),
    ],
)
def test_layers_that_are_not_there_are_not_kept(
    kind: str, options: dict[str, Any], said: str, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    stage = stage_class("prune.layers")(**options)
    with pytest.raises((RecipeError, StageFailed), match=said):
        check_stage(stage, source(kind), has_text=True)
        run_stage(stage, source(kind), Context(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_structured_pruning_removes_the_share_and_refits(
    kind: str, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    whole = source(kind)
    options: dict[str, Any] = {"ffn": 0.5, "steps": 2, "round_to": 4} | ({"heads": 0.3} if kind in HEADS else {})
    stage = stage_class("prune.structured")
    ctx = context(whole, tmp_path)
    made, record = run_stage(stage(**options), whole, ctx)
    plain, _ = run_stage(stage(**options, reconstruct=False), whole, ctx)
    before = sum(len(s.neurons) for s in shape_map_of(whole).layers)
    assert sum(len(s.neurons) for s in shape_map_of(made).layers) == before // 2
    if kind in HEADS:
        heads = [sum(len(s.heads) + len(s.cross) for s in shape_map_of(m).layers) for m in (whole, made)]
        assert heads[1] < heads[0]
    assert made.shape_map == plain.shape_map
    assert record.facts["parameters_after"] < record.facts["parameters_before"]
    off = {
        name: np.mean([np.abs(scores(whole, e) - scores(m, e)).mean() for e in ctx.calibration])
        for name, m in (("fitted", made), ("cut", plain))
    }
    assert off["fitted"] < off["cut"]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("gpt2", {"size_mb": 50.0}, "no effect"),
        ("t5", {"heads": 0.5}, "relative positions"),
        ("gpt2", {"heads": 0.01, "ffn": 0.5}, "removes nothing"),
    ],
)
def test_what_cannot_be_pruned_is_refused_before_work(
    kind: str, options: dict[str, Any], said: str, source: Callable[[str], TorchModel]
) -> None:
    with pytest.raises(ExportError, match=said):
        check_stage(stage_class("prune.structured")(**options), source(kind), has_text=True)


def test_a_size_is_met_by_the_share_that_makes_it(source: Callable[[str], TorchModel], tmp_path: Path) -> None:
    from converter.forecast import forecast_of

    whole = source("t5")
    size = forecast_of(whole).bytes(1) / 1e6
    stage = stage_class("prune.structured")
    # Evenly: a matrix of fewer than 32 rows is kept in float32, and takes more than a wider one.
    options: dict[str, Any] = {"steps": 1, "round_to": 1, "scope": "layer"}
    _, record = run_stage(stage(size_mb=0.9 * size, **options), whole, context(whole, tmp_path))
    assert "budget_missed" not in record.facts
    assert 0.8 * size < record.facts["budget"]["found"] <= 0.92 * size
    _, record = run_stage(stage(size_mb=0.001, **options), whole, context(whole, tmp_path))
    assert "lowest that can be reached" in record.facts["budget_missed"]


def test_every_other_stage_says_why_it_does_not_know_models_that_write(source: Callable[[str], TorchModel]) -> None:
    refused = [n for n in stage_names() if not n.startswith("quantize.") and "decoder" not in stage_class(n).takes]
    assert set(refused) >= {"share.layers", "share.codebook", "factorize.linears", "prune.threshold"}
    for name in refused:
        cls = stage_class(name)
        assert cls.why_not, name
        with pytest.raises(UsageError, match="it works on encoders") as caught:
            made = cls(speedup=2.0) if name == "distill.gradual" else cls()
            check_stage(made, source("gpt2"), has_text=True)
        assert cls.why_not in str(caught.value)


def test_an_architecture_without_a_family_is_refused_by_name(tmp_path: Path) -> None:
    model = load_source(str(save_causal(tmp_path / "model", "phi3")))
    with pytest.raises(SourceError, match="phi3 cannot be pruned"):
        check_stage(stage_class("prune.layers")(keep=1), model, has_text=True)


@pytest.mark.parametrize(
    ("kind", "name", "options", "off"),
    [
        ("t5", "prune.layers", {"decoder": 1}, 0.0),
        ("gpt2", "prune.layers", {"keep": 1}, 0.0),
        ("llama", "prune.structured", {"heads": 0.5, "ffn": 0.5, "scope": "layer", "round_to": 4}, 0.01),
        ("marian", "prune.structured", {"heads": 0.25, "ffn": 0.5, "scope": "layer", "round_to": 4}, 0.01),
        ("marian", "trim.vocabulary", {}, 0.02),
        ("gpt2", "trim.shortlist", {}, 0.02),
    ],
)
def test_the_plan_says_how_many_parameters_are_left(
    kind: str, name: str, options: dict[str, Any], off: float, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    from converter.forecast import forecast_of
    from converter.surgery.count import n_parameters

    whole, ctx = source(kind), context(source(kind), tmp_path)
    stage = stage_class(name)(**options)
    told = stage.forecast(forecast_of(whole), whole, ctx).parameters
    made, _ = run_stage(stage, whole, ctx)
    assert abs(told - n_parameters(made)) <= off * n_parameters(whole)
    assert told != n_parameters(whole)


def test_the_recipes_of_the_samples_name_stages_that_know_them() -> None:
    from converter.graphs import Kind
    from converter.recipe import bind_recipe, load_recipe_table
    from sample_models import recipes

    kinds: dict[str, Kind] = {"translator-tiny": "encoder-decoder", "storyteller-tiny": "decoder"}
    for name, kind in kinds.items():
        recipe = bind_recipe(load_recipe_table(recipes()[name]))
        assert recipe.compress
        assert all(kind in type(stage).takes for stage in recipe.compress)
