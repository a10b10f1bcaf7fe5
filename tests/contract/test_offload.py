"""A source whose weights are on disk answers as it does from memory, and what needs it whole refuses by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel, stored_tensors, stored_weight, weight_map_of
from converter.bounds.watch import Limits
from converter.commands.cli import run
from converter.context import check_needs
from converter.distill.soft import SoftLabels
from converter.errors import ResourceLimit
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.model_folder.offload import Placement, bring_in, held
from converter.pipeline import run_recipe
from converter.prune.layers import LayerDropping
from converter.prune.threshold import ThresholdPruning
from converter.recipe import bind_recipe
from converter.reference import encode_probes, feed_of, torch_run
from converter.stage import SILENT, Context, run_stage
from tests.distilling import QUICK, TEXTS

ON_DISK = 0
"""Bytes of weights that stay in memory."""


@pytest.fixture
def pair(tiny: Callable[..., Path], tmp_path: Path) -> tuple[TorchModel, TorchModel]:
    """One model in memory, and the same on disk."""
    folder = str(tiny())
    return load_source(folder), load_source(folder, placement=Placement(tmp_path / "offload", room=ON_DISK))


def answers(model: TorchModel) -> dict[str, Any]:
    (graph,) = model.graphs()
    return dict(torch_run(model)(graph, feed_of(model, [p.encoding for p in encode_probes(model, TEXTS[:4])])))


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert"])
@pytest.mark.parametrize("room", [ON_DISK, 40_000])
def test_answers_and_digest_are_those_of_the_model_in_memory(
    family: str, room: int, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    plain = load_source(str(tiny(family)))
    given = load_source(str(tiny(family)), placement=Placement(tmp_path / "offload", room=room))
    assert given.offloaded
    assert not plain.offloaded
    for name, value in answers(plain).items():
        np.testing.assert_allclose(answers(given)[name], value, rtol=0, atol=1e-5)
    assert given.digest == plain.digest
    assert given.size_bytes == plain.size_bytes
    assert {p.suffix for p in (tmp_path / "offload").rglob("*") if p.is_file()} <= {".safetensors", ".json"}


def test_answers_come_from_the_files(pair: tuple[TorchModel, TorchModel]) -> None:
    """The twin: where one weight is read from another's place, the answers are others."""
    plain, given = pair
    names = [n for n, _ in given.module.named_parameters() if n.endswith("attention.self.query.weight")]
    weights, own = weight_map_of(given.module, names[0])
    weights.dataset.index[weights.prefix + own] = weights.dataset.index[names[1]]
    assert np.abs(answers(given)["logits"] - answers(plain)["logits"]).max() > 1e-3


def test_what_is_brought_in_is_in_memory_for_good_and_the_same(pair: tuple[TorchModel, TorchModel]) -> None:
    plain, given = pair
    bring_in(given.module)
    assert not given.offloaded
    assert replace(given).digest == plain.digest
    assert all(not hasattr(m, "_hf_hook") for m in given.module.modules())
    assert {n: p.requires_grad for n, p in given.module.named_parameters()} == {
        n: p.requires_grad for n, p in plain.module.named_parameters()
    }


def test_dropped_layers_leave_a_student_in_memory_that_learns_from_the_teacher_on_disk(
    pair: tuple[TorchModel, TorchModel], tmp_path: Path
) -> None:
    made = []
    for i, source in enumerate(pair):
        work = tmp_path / str(i)
        work.mkdir()
        ctx = Context(work=work, calibration=TEXTS, teacher=source)
        student, _ = run_stage(LayerDropping(keep=2), source, ctx)
        assert not student.offloaded
        made.append(run_stage(SoftLabels(epochs=2, **QUICK), student, ctx))
    (plain, told), (other, found) = made
    assert found.facts["first_loss"] == pytest.approx(told.facts["first_loss"], rel=1e-4)
    assert found.facts["last_loss"] == pytest.approx(told.facts["last_loss"], rel=1e-3)
    assert pair[1].offloaded
    for (name, a), (_, b) in zip(stored_tensors(plain.module), stored_tensors(other.module), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    "stage",
    [
        ThresholdPruning(0.5),
        ThresholdPruning(0.5, score="wanda", scope="row", steps=2),
        ThresholdPruning(score="obs", pattern="2:4", texts=20),
    ],
    ids=["magnitude", "wanda", "obs"],
)
def test_pruning_on_disk_makes_the_weights_that_it_makes_in_memory(
    stage: ThresholdPruning, pair: tuple[TorchModel, TorchModel], tmp_path: Path
) -> None:
    made = []
    many = tuple(Example(f"{a.text} {b.text}") for a in TEXTS for b in TEXTS)
    before = pair[1].digest
    for i, source in enumerate(pair):
        work = tmp_path / str(i)
        work.mkdir()
        made.append(run_stage(stage, source, Context(work=work, calibration=many, teacher=source)))
    (plain, told), (other, found) = made
    assert other.offloaded
    assert found.facts["zeros"] == told.facts["zeros"] > 0
    for (name, a), (_, b) in zip(stored_tensors(plain.module), stored_tensors(other.module), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
    assert replace(pair[1]).digest == before, "the source is as it was"
    assert replace(other).digest != before
    smaller = LayerDropping(keep=1).run(other, Context(work=tmp_path)).made
    assert not smaller.offloaded
    linears = [m for m in smaller.module.modules() if isinstance(m, torch.nn.Linear)]
    assert any(float((m.weight == 0).float().mean()) > 0.4 for m in linears)


def test_only_what_is_held_is_in_memory(pair: tuple[TorchModel, TorchModel], tmp_path: Path) -> None:
    module = pair[1].module
    name, linear = next((n, m) for n, m in module.named_modules() if isinstance(m, torch.nn.Linear))
    with held({"x": linear}, tmp_path / "new"), torch.no_grad():
        assert {n.rpartition(".")[0] for n, p in module.named_parameters() if p.device.type == "cpu"} == {name}
        linear.weight.fill_(2.0)
    assert all(p.device.type == "meta" for p in module.parameters())
    assert bool((stored_weight(linear) == 2.0).all())
    with held({"x": linear}), torch.no_grad():
        linear.weight.fill_(3.0)
    assert bool((stored_weight(linear) == 2.0).all()), "without a folder nothing is written"


def refusal(capfd: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    code = run([*flags, "--json", "--quiet", "--device-map", "auto"])
    return code, json.loads(capfd.readouterr().out)["error"]["message"]


def test_what_needs_the_whole_source_is_refused_by_name_before_any_work(
    tiny: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.model_folder.offload.SHARE", 1e-9)  # nothing stays in memory
    words = [str(tiny()), "-t", "ort-gpu", "-o", str(tmp_path / "out")]
    code, said = refusal(capfd, *words, "--prune", "structured:heads=0.5")
    assert (code, said[:17]) == (2, "prune.structured:")
    assert "gradients" in said
    code, said = refusal(capfd, *words, "--distill", "soft")
    assert (code, said[:13]) == (2, "distill.soft:")
    code, said = refusal(capfd, *words)
    assert code == 2
    assert "an export of it holds all weights in memory" in said
    assert not (tmp_path / "out").exists()


def test_a_source_on_disk_becomes_a_package_of_the_layers_that_are_kept(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.model_folder.offload.SHARE", 1e-9)
    words = [str(tiny()), "-t", "cpu-int8", "-o", str(tmp_path / "out"), "--prune", "layers:keep=2", "-q"]
    text = ["--quantize", "none", "--probes", "8", "--limit", "agreement=0", "--limit", "max_error=1000"]
    assert run([*words, *text, "--device-map", "auto"]) in {0, 3}
    plain = LayerDropping(keep=2).run(load_source(str(tiny())), Context(work=tmp_path)).made
    assert load_source(str(tmp_path / "out" / "compressed")).digest == plain.digest
    (target,) = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["targets"]
    checks = {c["name"]: c for c in target["evaluation"]["checks"]}
    assert checks["owner's library"]["status"] == "NOT_RUN"
    assert "on disk" in checks["owner's library"]["detail"]


class Titles:
    """Progress that notes what was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def task(self, title: str, total: float | None = None) -> Any:
        self.begun.append(title)
        return SILENT.task(title, total)

    def note(self, text: str) -> None:
        pass


@pytest.mark.parametrize(
    ("copies", "limits", "said"),
    [(3.0, Limits(disk=50_000), "disk space"), (1e6, Limits(memory=20_000_000_000), "memory \\(for what the first")],
    ids=["disk", "memory"],
)
def test_what_the_kept_layers_take_is_held_to_the_limits_before_the_source_is_asked(
    copies: float,
    limits: Limits,
    said: str,
    tiny: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("converter.model_folder.offload.SHARE", 1e-9)
    monkeypatch.setattr("converter.forecast.COPIES_IN_MEMORY", copies)
    stage = {"stage": "prune.layers", "keep": 2}
    recipe = bind_recipe({"model": str(tiny()), "targets": ["cpu-int8"], "compress": [stage]})
    progress = Titles()
    with pytest.raises(ResourceLimit, match=said):
        run_recipe(recipe, tmp_path / "out", progress=progress, limits=limits, device_map="auto")
    assert progress.begun == ["Loading the model"]


def test_what_the_kept_layers_take_is_foretold_as_it_is(
    pair: tuple[TorchModel, TorchModel], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    stage = LayerDropping(keep=2)
    kept = stage.run(pair[1], Context(work=tmp_path)).made.size_bytes
    recipe = bind_recipe(
        {
            "model": str(tiny()),
            "targets": ["cpu-int8"],
            "quantize": {"cpu-int8": "none"},
            "compress": [{"stage": "prune.layers", "keep": 2}],
        }
    )
    check_needs(recipe, pair[1], Limits(disk=int(3.1 * kept)), tmp_path)
    with pytest.raises(ResourceLimit):
        check_needs(recipe, pair[1], Limits(disk=int(2.9 * kept)), tmp_path)


def test_a_limit_that_no_layer_fits_ends_with_7(
    tiny: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [str(tiny()), "-t", "cpu-int8", "-o", str(tmp_path / "out"), "--prune", "layers:keep=1"]
    code, said = refusal(capfd, *words, "--max-memory", "60MB")
    assert code == 7
    assert "of memory" in said
    assert not (tmp_path / "out").exists()
