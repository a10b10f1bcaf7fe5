"""What every family file must hold: the map is right, whatever is removed, and survives saving and export."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.errors import StageFailed
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.model_folder.shape_map import LayerShape
from converter.onnx.export import ExportOnnx
from converter.reference import feed_of, torch_run
from converter.registry import families
from converter.stage import Context, run_stage
from converter.surgery.resize import family_of, resized, shallower
from tests.tiny import FAMILIES, HEADS, NEURONS, SENTENCES

LAW = 1e-5  # float32 sums in another order, outputs about 1


def feed(model: TorchModel, texts: Sequence[str] = SENTENCES[:6]) -> dict[str, Any]:
    """Texts of several lengths in one padded batch."""
    return feed_of(model, [model.task.encode(model.tokenizer, Example(t), model.max_length) for t in texts])


def answers(model: TorchModel) -> dict[str, Any]:
    return dict(torch_run(model)(MODEL, feed(model)))


def uneven(model: TorchModel, seed: int = 0) -> list[LayerShape]:
    """Another number of heads and neurons in each layer."""
    rng = np.random.default_rng(seed)
    made = []
    for i, parts in enumerate(family_of(model).layers(model.module)):
        n_heads, n_neurons = 1 + (i + 1) % (parts.n_heads - 1), parts.n_neurons // (2 + i)
        heads = sorted(rng.choice(parts.n_heads, n_heads, replace=False).tolist())
        neurons = sorted(rng.choice(parts.n_neurons, n_neurons, replace=False).tolist())
        made.append(LayerShape(tuple(heads), tuple(neurons)))
    return made


def masked(model: TorchModel, keep: Sequence[LayerShape]) -> dict[str, Any]:
    """Answers of the whole model with all heads and neurons but `keep` gated to zero."""
    with ExitStack() as stack:
        for parts, shape in zip(family_of(model).layers(model.module), keep, strict=True):
            heads = torch.zeros(parts.n_heads, parts.head_dim)
            heads[list(shape.heads)] = 1
            neurons = torch.zeros(parts.n_neurons)
            neurons[list(shape.neurons)] = 1
            for linear, gate in ((parts.attention_output, heads.reshape(-1)), (parts.ffn_output, neurons)):
                handle = linear.register_forward_pre_hook(lambda _, args, gate=gate: (args[0] * gate, *args[1:]))
                stack.callback(handle.remove)
        return answers(model)


def same(found: dict[str, Any], wanted: dict[str, Any], limit: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.abs(found[name] - value).max() <= limit, name


@pytest.fixture(params=FAMILIES)
def source(request: pytest.FixtureRequest, tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny(request.param)))


def test_every_encoder_has_a_family() -> None:
    assert sorted(kind for kind, family in families().items() if not family.writes) == sorted(FAMILIES)


def test_the_map_counts_heads_and_neurons(source: TorchModel) -> None:
    for parts in family_of(source).layers(source.module):
        assert (parts.n_heads, parts.n_neurons) == (HEADS, NEURONS)
        assert parts.attention_output.in_features == parts.n_heads * parts.head_dim


def test_removing_is_masking(source: TorchModel) -> None:
    keep = uneven(source)
    before = answers(source)
    wanted = masked(source, keep)
    made = resized(source, keep)
    same(answers(made), wanted, LAW)
    assert made.size_bytes < source.size_bytes
    assert max(np.abs(before[n] - wanted[n]).max() for n in wanted) > 0.05, "masking must matter, or nothing is proven"
    same(answers(source), before, 0)


def test_removing_twice_is_removing_once(source: TorchModel) -> None:
    once = resized(source, uneven(source))
    keep = [LayerShape(tuple(range(len(s.heads)))[-1:], tuple(range(3, 9))) for s in uneven(source)]
    twice = resized(once, keep)
    assert twice.shape_map is not None
    same(answers(twice), masked(source, twice.shape_map.layers), LAW)
    same(answers(twice), answers(resized(source, twice.shape_map.layers)), 0)


def test_a_dropped_layer_is_passed_by(source: TorchModel) -> None:
    made = shallower(source, [0, 2])
    assert made.config.num_hidden_layers == 2
    assert made.shape_map is not None
    assert made.shape_map.layers_kept == (0, 2)
    assert source.config.num_hidden_layers == 3
    if family_of(source).shares_layers:
        passes: list[int] = []
        layer = made.module.base_model.encoder.albert_layer_groups[0]  # type: ignore[union-attr]
        layer.register_forward_hook(lambda *_: passes.append(1))
        answers(made)
        assert len(passes) == 2
        return
    stack = family_of(source).stack(source.module)  # type: ignore[attr-defined]
    wanted_hook = stack[1].register_forward_hook(
        lambda _, args, out: (args[0], *out[1:]) if isinstance(out, tuple) else args[0]
    )
    wanted = answers(source)
    wanted_hook.remove()
    same(answers(made), wanted, LAW)
    assert np.abs(answers(source)["logits"] - wanted["logits"]).max() > 0.05


@pytest.mark.parametrize("kept", [[0, 1, 2], [1, 2]], ids=["all layers", "first layer dropped"])
def test_what_is_saved_loads_and_answers_the_same(source: TorchModel, tmp_path: Path, kept: list[int]) -> None:
    made = resized(source, uneven(source))
    if len(kept) < 3:
        made = shallower(made, kept)
    save_model(made, tmp_path / "saved")
    loaded = load_source(str(tmp_path / "saved"))
    same(answers(loaded), answers(made), 0)
    assert loaded.shape_map == made.shape_map
    assert (loaded.input_names, loaded.max_length) == (made.input_names, made.max_length)
    assert sorted(p.name for p in (tmp_path / "saved").glob("*.bin")) == []


def bare(model: TorchModel) -> list[LayerShape]:
    """The first layer without neurons, the second without heads, the third without both."""
    shapes = uneven(model)
    empty = [(shapes[0].heads, ()), ((), shapes[1].neurons), ((), ())] if len(shapes) > 1 else [(shapes[0].heads, ())]
    return [LayerShape(heads, neurons) for heads, neurons in empty]


def test_a_sublayer_without_units_leaves_its_bias(source: TorchModel, tmp_path: Path) -> None:
    wanted = masked(source, bare(source))
    made = resized(source, bare(source))
    same(answers(made), wanted, LAW)
    save_model(made, tmp_path / "saved")
    loaded = load_source(str(tmp_path / "saved"))
    same(answers(loaded), answers(made), 0)
    assert [(p.n_heads, p.n_neurons) for p in family_of(loaded).layers(loaded.module)] == [
        (len(s.heads), len(s.neurons)) for s in bare(source)
    ]


@pytest.mark.parametrize("bad", [(), (1, 0), (0, 0), (0, HEADS)])
def test_a_wrong_shape_is_refused(source: TorchModel, bad: tuple[int, ...]) -> None:
    keep = [LayerShape(bad, (0, 1))] * len(family_of(source).layers(source.module))
    with pytest.raises(StageFailed, match="heads"):
        resized(source, keep)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mpnet", "deberta-v2", "modernbert", "albert"])
def test_a_pruned_model_exports(family: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    import onnxruntime

    source = load_source(str(tiny(family, layers=2)))
    made = resized(source, uneven(source))
    onnx, _ = run_stage(ExportOnnx(), made, Context(work=tmp_path))
    session = onnxruntime.InferenceSession(str(onnx.files[MODEL]), providers=["CPUExecutionProvider"])
    batch = feed(made)
    found = session.run(None, {name: batch[name] for name in made.input_names})
    same({"logits": found[0]}, answers(made), LAW)
