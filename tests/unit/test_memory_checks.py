"""What a run takes of memory and disk is held to what there is before it takes it, and what fits is not refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import pipeline
from converter.artifact import TorchModel
from converter.bounds import watch
from converter.bounds.exhausted import exhausted
from converter.bounds.watch import STATM, Limits, available_memory
from converter.commands.cli import run
from converter.context import check_compressing, check_needs, check_room, memory_of
from converter.distill.soft import SoftLabels
from converter.errors import DataError, ResourceLimit
from converter.forecast import disk_of_export, forecast_of, needs_by_pieces
from converter.model_folder import given, mapped
from converter.model_folder.load import load_source
from converter.model_folder.mapped import bytes_held
from converter.model_folder.needs import loading_of
from converter.onnx.quantize.block_rounding import round_to_nearest
from converter.onnx.rewrites.block_products import BlockFile
from converter.prune.layers import LayerDropping
from converter.recipe import Recipe, bind_recipe
from converter.stage_cache.cache import open_cache
from tests.tiny_text import save_causal

FULL = Path("/dev/full")
GIGABYTE = 10**9
linux = pytest.mark.skipif(not STATM.is_file(), reason="Linux tells what of a process is a file")
full_disk = pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is always full")


def in_bfloat16(folder: Path) -> Path:
    """Store a model's weights in half of the bytes: in float32 only memory holds them."""
    import torch
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({n: t.to(torch.bfloat16) for n, t in load_file(file).items()}, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}), encoding="utf-8")
    return folder


@pytest.fixture
def short(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return in_bfloat16(shutil.copytree(tiny(), tmp_path / "short"))


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchModel, TorchModel]:
    """One model that writes text, of a checkpoint in float32 and of one in bfloat16."""
    folder = tmp_path_factory.mktemp("writers")
    names = (save_causal(folder / "float32", "llama"), in_bfloat16(save_causal(folder / "bfloat16", "llama")))
    return load_source(str(names[0])), load_source(str(names[1]))


def recipe_of(model: str, precision: str) -> Recipe:
    return bind_recipe({"model": model, "targets": ["cpu-int8"], "quantize": {"cpu-int8": precision}})


def machine_has(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(watch, "available_memory", lambda: free)
    monkeypatch.setattr("converter.model_folder.offload.available_memory", lambda: free)


@full_disk
def test_rounded_weights_that_the_disk_does_not_take_are_a_full_disk() -> None:
    made = round_to_nearest(np.ones((64, 64), dtype=np.float32), 4, 32)
    with pytest.raises(OSError, match="space") as raised:
        BlockFile.of(made, FULL)
    assert isinstance(exhausted(raised.value), ResourceLimit)


@full_disk
def test_what_numpy_says_of_a_full_disk_is_understood() -> None:
    with pytest.raises(OSError, match="requested") as raised:
        np.ones(100_000).tofile(FULL)
    assert isinstance(exhausted(raised.value), ResourceLimit)
    assert exhausted(OSError("2 rows were requested, and written")) is None


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_the_disk_that_is_asked_for_holds_what_is_rounded_too(
    precision: str, writers: tuple[TorchModel, TorchModel], tmp_path: Path
) -> None:
    source, _ = writers
    recipe = recipe_of("m", precision)
    stored = recipe.targets[0].menu()[precision].bytes_a_weight
    package = forecast_of(source).bytes(stored)
    needed = source.size_bytes + 2 * package
    assert disk_of_export(source, [(precision, stored)]) == needed
    check_needs(recipe, source, Limits(disk=needed), tmp_path)
    with pytest.raises(ResourceLimit, match="disk space"):
        check_needs(recipe, source, Limits(disk=needed - 1), tmp_path)


def test_an_encoder_whose_layers_cannot_be_pruned_is_foretold_and_exported(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = load_source(str(tiny("albert", num_hidden_groups=2)))
    told = forecast_of(source)
    assert told.parameters == sum(p.numel() for p in source.module.parameters())
    assert not told.widths
    check_needs(recipe_of("m", "none"), source, Limits(), tmp_path)
    assert needs_by_pieces(source, [0])[1] > 2 * source.size_bytes


@linux
def test_the_disk_that_is_asked_for_holds_the_weights_that_are_mapped(
    writers: tuple[TorchModel, TorchModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "MAPPED_FROM", 1)
    recipe, (plain, short) = recipe_of("m", "int8"), writers
    # Whatever its configuration says: an adapter that was merged leaves no file either.
    short = replace(short, provenance=replace(short.provenance, dtype="float32"))
    needed = disk_of_export(short, [("int8", recipe.targets[0].menu()["int8"].bytes_a_weight)])
    held = bytes_held(short.module)
    assert held > 10_000
    check_needs(recipe, plain, Limits(disk=needed), tmp_path)
    check_needs(recipe, short, Limits(disk=needed + held), tmp_path)
    with pytest.raises(ResourceLimit, match="disk space"):
        check_needs(recipe, short, Limits(disk=needed + held - 1), tmp_path)


@linux
@pytest.mark.parametrize("which", [0, 1], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("precision", ["none", "int8"])
def test_a_machine_must_have_what_a_run_will_hold_beside_what_it_holds(
    precision: str, which: int, writers: tuple[TorchModel, TorchModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of files are given back, so that a checkpoint in float32 takes nothing off what is needed."""
    source, recipe = writers[which], recipe_of("m", precision)
    assert (bytes_held(source.module) > 0) == (which == 1)
    needed = max(need.held for need in memory_of(recipe, source)) - bytes_held(source.module)
    machine_has(monkeypatch, needed)
    check_needs(recipe, source, Limits(), tmp_path)
    machine_has(monkeypatch, needed - 1)
    with pytest.raises(ResourceLimit, match=r"more of memory \(for checks\), and this machine has"):
        check_needs(recipe, source, Limits(), tmp_path)


@linux
def test_a_model_that_reads_text_is_held_twice_beside_its_checkpoint(
    tiny: Callable[..., Path], short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_source(str(tiny()))
    machine_has(monkeypatch, 2 * plain.size_bytes)
    check_needs(recipe_of("m", "int8"), plain, Limits(), tmp_path)
    check_room(plain, Limits())
    machine_has(monkeypatch, 2 * plain.size_bytes - 1)
    with pytest.raises(ResourceLimit, match="this machine has"):
        check_needs(recipe_of("m", "int8"), plain, Limits(), tmp_path)
    with pytest.raises(ResourceLimit, match="this machine has"):
        check_room(plain, Limits())
    # Small tensors are not looked at one by one.
    machine_has(monkeypatch, int(2.2 * plain.size_bytes))
    half = load_source(str(short))
    check_needs(recipe_of("m", "int8"), half, Limits(), tmp_path)
    # A checkpoint in float32 that an adapter changed is in memory too: two more of it are still needed.
    merged = replace(half, provenance=replace(half.provenance, dtype="float32"))
    machine_has(monkeypatch, 2 * plain.size_bytes - 1)
    with pytest.raises(ResourceLimit, match="this machine has"):
        check_needs(recipe_of("m", "int8"), merged, Limits(), tmp_path)


@linux
def test_weights_in_float32_are_mapped_and_shorter_ones_are_held(
    tiny: Callable[..., Path], short: Path, tmp_path: Path
) -> None:
    numbers = loading_of(tiny()).mapped // 4
    assert loading_of(tiny()).held == 0
    assert numbers > 10_000
    assert (loading_of(short).held, loading_of(short).mapped) == (numbers * 4, 0)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "short"}')
    assert loading_of(tmp_path / "adapter").held == numbers * 4
    moved = tmp_path / "sentence"
    moved.mkdir()
    (moved / "modules.json").write_text('[{"path": "0_Transformer", "type": "models.Transformer"}]')
    short.rename(moved / "0_Transformer")
    assert loading_of(moved).held == numbers * 4
    assert loading_of(tmp_path / "nowhere").bytes == 0


def loads_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each model that is loaded from now on."""
    seen, load = list[str](), given.load_model

    def counted(recipe: Any, *more: Any) -> TorchModel:
        seen.append(recipe.model)
        return load(recipe, *more)

    monkeypatch.setattr(given, "load_model", counted)
    return seen


def refused(capfd: pytest.CaptureFixture[str], model: Path, out: Path, *flags: str) -> tuple[int, str]:
    words = [str(model), "-t", "cpu-int8", "--quantize", "none", "-o", str(out), "--json", "-q", *flags]
    return run(words), json.loads(capfd.readouterr().out)["error"]["message"]


def test_a_run_that_the_machine_cannot_hold_ends_before_the_model_is_loaded(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded, needed = loads_of(monkeypatch), loading_of(short).held
    machine_has(monkeypatch, needed - 1)
    code, said = refused(capfd, short, tmp_path / "out")
    assert code == 7
    assert "nothing was made" in said
    assert loaded == []
    assert not (tmp_path / "out").exists()
    # What lies on disk needs no room: only the export of it does, before anything is made.
    code, said = refused(capfd, short, tmp_path / "out", "--device-map", "auto")
    assert code == 7
    assert "more of memory (for " in said
    assert loaded == [str(short)]
    assert not (tmp_path / "out").exists()


def test_a_model_that_can_be_loaded_and_not_exported_is_refused_before_anything_is_made(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    loaded = loads_of(monkeypatch)
    machine_has(monkeypatch, loading_of(short).held)
    code, said = refused(capfd, short, tmp_path / "out")
    assert code == 7
    assert "this machine has" in said
    assert loaded == [str(short)]
    assert not any((tmp_path / "out").iterdir())


def test_training_that_does_not_fit_is_refused_before_the_source_is_asked(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW holds the weights four times, and the teacher's besides; the same recipe without training fits."""
    source = load_source(str(tiny()))
    now = watch.memory_bytes()
    monkeypatch.setattr("converter.context.memory_bytes", lambda: now)
    fits = Limits(memory=now + 4 * source.size_bytes)
    check_compressing(SoftLabels(), source, fits)
    tight = Limits(memory=now + 4 * source.size_bytes - 1)
    with pytest.raises(ResourceLimit, match=r"for distill\.soft"):
        check_compressing(SoftLabels(), source, tight)
    check_compressing(LayerDropping(keep=1), source, tight)


def test_embeddings_that_are_not_trained_have_no_moments(tiny: Callable[..., Path]) -> None:
    source = load_source(str(tiny()))
    tables = sum(p.nbytes for n, p in source.module.named_parameters() if "embeddings" in n and p.dim() == 2)
    assert SoftLabels().beside(source) - SoftLabels(freeze_embeddings=True).beside(source) == 3 * tables


def test_each_stage_is_held_to_what_its_model_takes_unless_the_cache_has_it(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one layer takes through training is less than what all of them would."""
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(pipeline, "check_compressing", lambda s, m, _: seen.append((s.name, m.size_bytes)))
    stages = [{"stage": "prune.layers", "keep": 1}, {"stage": "distill.soft", "steps": 1}]
    recipe = bind_recipe({"model": str(tiny()), "targets": ["cpu-int8"], "compress": stages})
    cache = open_cache(str(tmp_path / "cache"))
    pipeline.run_recipe(recipe, tmp_path / "out", cache=cache)
    names, sizes = zip(*seen, strict=True)
    assert names == ("prune.layers", "distill.soft")
    assert sizes[1] < sizes[0]
    seen.clear()
    pipeline.run_recipe(recipe, tmp_path / "again", cache=cache)
    assert not seen


@linux
@pytest.mark.parametrize("least", [1, GIGABYTE])
def test_a_run_moves_a_large_source_into_a_file_before_it_reads_text(
    least: int, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    held = list[int]()

    def look(_recipe: Recipe, source: TorchModel, _progress: Any) -> None:
        held.append(bytes_held(source.module))
        raise DataError("this was far enough")

    monkeypatch.setattr(mapped, "MAPPED_FROM", least)
    monkeypatch.setattr(pipeline, "read_text", look)
    assert refused(capfd, short, tmp_path / "out")[1] == "this was far enough"
    assert [n == 0 for n in held] == [least == 1]


STAT_1 = "inactive_file 1\nactive_file 1\ntotal_inactive_file {inactive}\ntotal_active_file {active}\ntotal_shmem 9\n"
STAT_2 = "inactive_file {inactive}\nactive_file {active}\nslab_reclaimable {slab}\nshmem 9\nslab 99\nfile 9999\n"


def group(folder: Path, version: int, most: str, used: int, **stat: int) -> None:
    """Write what the system tells of a control group."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (most, str(used)), strict=True):
        (folder / name).write_text(f"{value}\n", encoding="ascii")
    figures = {"inactive": 0, "active": 0, "slab": 0} | stat
    (folder / "memory.stat").write_text((STAT_2 if version == 2 else STAT_1).format(**figures), encoding="ascii")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watch, "CONTAINER", tmp_path / "cgroup")
    monkeypatch.setattr(watch, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 64 * GIGABYTE}))
    return tmp_path / "cgroup"


def test_pages_of_files_are_room_in_a_container_used_lately_or_not(container: Path) -> None:
    group(container, 2, "1000000", 900_000, inactive=100_000, active=300_000, slab=50_000)
    assert available_memory() == 100_000 + 100_000 + 300_000 + 50_000
    group(container, 2, "1000000", 1_200_000)
    assert available_memory() == 0
    group(container, 2, "max", 900_000)
    assert available_memory() == 64 * GIGABYTE


def test_limits_of_the_first_version_of_control_groups_are_seen(container: Path) -> None:
    group(container / "memory", 1, "1000000", 900_000, inactive=100_000, active=300_000)
    assert available_memory() == 500_000
    group(container / "memory", 1, str((1 << 63) - 4096), 900_000)
    assert available_memory() == 64 * GIGABYTE


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_of_all_groups_that_a_process_is_in_counts(version: int, container: Path) -> None:
    root, row = (container, "0::/batch/job") if version == 2 else (container / "memory", "4:cpu,memory:/batch/job")
    container.parent.joinpath("own").write_text(f"7:pids:/other\n{row}\n", encoding="utf-8")
    group(root / "batch" / "job", version, "800", 100)
    group(root / "batch", version, "1000", 500)
    group(root / "other", version, "1", 1)
    assert available_memory() == 500
    group(root / "batch" / "job", version, "300", 100)
    assert available_memory() == 200


def test_where_no_group_tells_anything_the_machine_counts(container: Path) -> None:
    assert not container.exists()
    assert available_memory() == 64 * GIGABYTE
    container.parent.joinpath("own").write_text("0::/../../elsewhere\n", encoding="utf-8")
    group(container, 2, "1000", 0)
    assert available_memory() == 1000
