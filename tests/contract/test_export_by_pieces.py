"""A source whose weights are on disk becomes the int8 package that it becomes from memory, a piece at a time."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import OffloadedWeightsLoader
from safetensors.torch import load_file, save_file

from converter.artifact import TorchModel, place_on_disk, stored_tensors
from converter.bounds.watch import Limits
from converter.commands.cli import run
from converter.context import check_needs
from converter.errors import ResourceLimit, StageFailed, UsageError
from converter.forecast import forecast_of, needs_by_pieces
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.model_folder.mapped import write_mapped
from converter.model_folder.offload import Placement, bytes_to_store, mapped_in
from converter.onnx import pieces
from converter.onnx.activations import stream_activations
from converter.onnx.export import ExportOnnx
from converter.onnx.model import OnnxModel
from converter.onnx.parameters import stored_parameters
from converter.onnx.pieces import Pieces
from converter.onnx.read import read_onnx
from converter.onnx.rewrites.sites import quantizable
from converter.onnx.runner import OnnxRunner
from converter.pipeline import run_recipe
from converter.quantize.dynamic import DynamicInt8
from converter.quantize.static import StaticInt8
from converter.recipe import bind_recipe
from converter.reference import encode_probes, feed_of, torch_run
from converter.resources import mapped_weights
from converter.stage import SILENT, Context, run_stage
from converter.validate.noise import rounded
from converter.validate.stored import as_float32
from converter.validate.weights import Parts, check_weights, parts_of
from tests.distilling import TEXTS

SMALL = 20_000
"""Bytes of a piece: a tiny model has several."""
FILES = "model.safetensors"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.onnx.pieces.PIECE_BYTES", SMALL)


@pytest.fixture
def pair(tiny: Callable[..., Path], tmp_path: Path) -> tuple[TorchModel, TorchModel]:
    """One model in memory, and the same on disk."""
    folder = str(tiny())
    return load_source(folder), load_source(folder, placement=Placement(tmp_path / "offload", room=0))


def feeds(model: TorchModel) -> list[Any]:
    return [feed_of(model, [probe.encoding]) for probe in encode_probes(model, TEXTS[:6])]


def exported(source: TorchModel, work: Path) -> tuple[OnnxModel, Context]:
    work.mkdir()
    ctx = Context(work=work, calibration=TEXTS, teacher=source)
    return run_stage(ExportOnnx(), source, ctx)[0], ctx


def test_the_int8_files_are_those_made_in_memory(
    pair: tuple[TorchModel, TorchModel], tmp_path: Path, small_pieces: None
) -> None:
    made = [exported(source, tmp_path / str(i)) for i, source in enumerate(pair)]
    assert made[0][0].digest == made[1][0].digest, "the float32 files are the same, byte for byte"
    assert len(Pieces(made[1][0].files[MODEL]).pieces) > 4
    assert pair[1].offloaded, "the source is on disk again"
    for stage in (DynamicInt8(samples=32), StaticInt8(samples=32)):
        (plain, told), (other, found) = (run_stage(stage, given, ctx) for given, ctx in made)
        assert found.facts["products"] == told.facts["products"] > 0
        assert found.facts["smoothed"].keys() == told.facts["smoothed"].keys()
        assert found.facts["noise"] == pytest.approx(told.facts["noise"], rel=0.05)
        one, two = (OnnxRunner(m.files).run for m in (plain, other))
        for feed in feeds(pair[0]):
            np.testing.assert_allclose(two(MODEL, feed)["logits"], one(MODEL, feed)["logits"], atol=0.02)
        left = {p.name for p in other.files[MODEL].parent.iterdir()}
        assert left == {"model.onnx"}, "nothing of the way is left"


def test_pieces_answer_as_the_whole_file_and_none_holds_more_than_its_share(
    pair: tuple[TorchModel, TorchModel], tmp_path: Path, small_pieces: None
) -> None:
    given, _ = exported(pair[0], tmp_path / "work")
    whole, cut = OnnxRunner(given.files).run, Pieces(given.files[MODEL])
    for feed in feeds(pair[0]):
        np.testing.assert_allclose(cut.run(MODEL, feed)["logits"], whole(MODEL, feed)["logits"], rtol=0, atol=1e-5)
    sizes = {h.name: int(np.prod(h.dims)) * 4 for h in cut.proto.graph.initializer}
    for piece in cut.pieces:
        by_node = [{n for n in node.input if n in sizes} for node in piece.nodes]
        held = sum(sizes[n] for n in set().union(*by_node))
        assert held <= SMALL or held == max(sum(sizes[n] for n in names) for names in by_node)


def test_a_file_with_two_weights_exchanged_is_found_by_its_pieces(
    pair: tuple[TorchModel, TorchModel], tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: where one piece has the weights of another, the export is refused."""
    opened = Pieces._opened

    def exchanged(self: Pieces, piece: pieces.Piece, given: Any) -> Any:
        square = [
            h for h in self.proto.graph.initializer if len(h.dims) == 2 and h.dims[0] == h.dims[1] and h.dims[0] > 8
        ]
        one, two = square[0], square[-1]
        assert one.dims == two.dims
        self._headers[one.name] = type(one).FromString(two.SerializeToString())
        self._headers[one.name].name = one.name
        return opened(self, piece, given)

    monkeypatch.setattr(Pieces, "_opened", exchanged)
    with pytest.raises(StageFailed, match="differs from PyTorch"):
        exported(pair[1], tmp_path / "work")


def test_rounding_costs_on_disk_what_it_costs_in_memory(pair: tuple[TorchModel, TorchModel]) -> None:
    before, made = [], []
    for source in pair:
        before.append([torch_run(source)(MODEL, feed)["logits"] for feed in feeds(source)])
        with rounded(source, 8):
            made.append([torch_run(source)(MODEL, feed)["logits"] for feed in feeds(source)])
        again = [torch_run(source)(MODEL, feed)["logits"] for feed in feeds(source)]
        np.testing.assert_array_equal(again[0], before[-1][0], "the weights are what they were")
    np.testing.assert_allclose(np.concatenate(made[1]), np.concatenate(made[0]), rtol=0, atol=1e-5)
    assert np.abs(np.concatenate(made[1]) - np.concatenate(before[1])).max() > 1e-5


def in_half(folder: Path, to: Path, kind: torch.dtype = torch.bfloat16) -> Path:
    """Copy a model, its weights in fewer bits."""
    shutil.copytree(folder, to)
    file = to / FILES
    save_file({n: t.to(kind) for n, t in load_file(file).items()}, file, metadata={"format": "pt"})
    return to


def test_weights_in_half_are_written_out_once_and_mapped_as_they_are(tiny: Callable[..., Path], tmp_path: Path) -> None:
    in_half(tiny(), tmp_path / "half")
    plain = load_source(str(tmp_path / "half"))
    given = load_source(str(tmp_path / "half"), placement=Placement(tmp_path / "offload", room=0))
    foretold = bytes_to_store(given.module)
    for _ in range(2):
        with mapped_in(given.module, tmp_path / "mapped"):
            assert all(p.device.type == "cpu" and p.dtype == torch.float32 for p in given.module.parameters())
            for (name, a), (_, b) in zip(stored_tensors(plain.module), stored_tensors(given.module), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    (written,) = (tmp_path / "mapped").iterdir()
    assert foretold <= written.stat().st_size < 1.1 * foretold
    assert bytes_to_store(given.module) == 0, "it lies there by now"
    assert given.offloaded
    assert {Path(place_on_disk(given.module, n)[0]).parent.name for n, _ in given.module.named_parameters()} == {
        "mapped"
    }
    assert given.digest == plain.digest


def test_weights_that_were_mapped_are_left_alone_until_they_are_mapped_again(
    pair: tuple[TorchModel, TorchModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pair[1].module
    before = {n: id(p) for n, p in module.named_parameters(remove_duplicate=False)}
    with pytest.raises(KeyboardInterrupt), mapped_in(module, tmp_path / "mapped"):
        raise KeyboardInterrupt
    assert {n: id(p) for n, p in module.named_parameters(remove_duplicate=False)} == before
    read = OffloadedWeightsLoader.__getitem__
    found: list[str] = []

    def noted(self: Any, key: str) -> Any:
        found.extend({key} & self.index.keys())
        return read(self, key)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", noted)
    with mapped_in(module, tmp_path / "mapped"):
        assert all(p.device.type == "cpu" for p in module.parameters())
    assert not found, "a weight was read into memory"
    torch_run(pair[1])(MODEL, feeds(pair[1])[0])
    assert len(found) >= len(before), "the twin: that is how a weight is read"


def test_half_of_a_file_of_weights_does_not_stay_where_the_disk_is_full(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    def read(name: str) -> torch.Tensor:
        if name == "b":
            raise OSError(errno.ENOSPC, "No space left on device")
        return torch.zeros(4)

    with pytest.raises(OSError, match="space"):
        write_mapped({"a": (4,), "b": (4,)}, read, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_is_watched_leaves_no_weights_beside_the_graph_of_a_model_past_2_gb(
    pair: tuple[TorchModel, TorchModel], tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, ctx = exported(pair[1], tmp_path / "work")
    monkeypatch.setattr("converter.onnx.write.MAX_FILE_BYTES", 100_000)
    model = read_onnx(made.files[MODEL])
    names = [str(s.given.name) for s in quantizable(model)][:2]
    before = sorted(ctx.work.rglob("*"))
    stream = stream_activations(model, names, pair[1], TEXTS[:2], ctx.work, SILENT)
    assert next(stream).keys() <= set(names)
    assert len(list(ctx.work.glob("observed.onnx_data*"))) > 1, "its weights are beside it"
    stream.close()
    assert sorted(ctx.work.rglob("*")) == before


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_in_half_are_compared_where_they_lie(
    kind: torch.dtype, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    folder = str(in_half(tiny(), tmp_path / "half", kind))
    plain = load_source(folder)
    given = load_source(folder, placement=Placement(tmp_path / "offload", room=0))
    wanted, found = (parts_of(source, encode_probes(source, TEXTS[:1])) for source in (plain, given))
    places = [(start, start + length) for start, length in mapped_weights()]
    for side in ("tables", "products"):
        assert getattr(found, side).keys() == getattr(wanted, side).keys()
        for name, values in getattr(found, side).items():
            at = values.__array_interface__["data"][0]
            assert any(start <= at < end for start, end in places), f"{name} was read into memory"
            np.testing.assert_array_equal(as_float32(values), getattr(wanted, side)[name])
    made, _ = exported(plain, tmp_path / "work")
    stored = list(stored_parameters(made.files[MODEL]))
    assert {c.status for c in check_weights(given, stored, found).checks} == {"PASS"}
    first = next(iter(found.products))
    exchanged = Parts(found.tables, {n: w[::-1] if n == first else w for n, w in found.products.items()}, found.gains)
    assert "FAIL" in {c.status for c in check_weights(given, stored, exchanged).checks}


def test_a_source_on_disk_becomes_a_proven_package(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_pieces: None
) -> None:
    monkeypatch.setattr("converter.model_folder.offload.SHARE", 1e-9)  # nothing stays in memory
    (tmp_path / "texts.txt").write_text("".join(f"{e.text}\n" for e in TEXTS), encoding="utf-8")
    words = [str(tiny()), "-t", "cpu-int8", "-o", str(tmp_path / "out"), "-q", "--quantize", "static"]
    text = ["--calibration", str(tmp_path / "texts.txt"), "--probes", "8", "--limit", "agreement=0"]
    assert run([*words, *text, "--device-map", "auto"]) == 0
    (target,) = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["targets"]
    checks = {c["name"]: c["status"] for c in target["evaluation"]["checks"]}
    assert {checks[name] for name in ("weights", "embedding tables", "noise")} == {"PASS"}
    assert checks["owner's library"] == "NOT_RUN"
    assert run(["verify", str(tmp_path / "out" / "cpu-int8")]) == 0


def test_the_disk_of_all_candidates_is_asked_for(pair: tuple[TorchModel, TorchModel], tmp_path: Path) -> None:
    source = pair[1]
    needed = {}
    for precision, count in (("static", 1), ("auto", 2)):
        recipe = bind_recipe({"model": "m", "targets": ["cpu-int8"], "quantize": {"cpu-int8": precision}})
        sizes = [forecast_of(source).bytes(1)] * count
        needed[precision] = needs_by_pieces(source, sizes)[1]
        check_needs(recipe, source, Limits(disk=needed[precision]), tmp_path)
        with pytest.raises(ResourceLimit, match="disk space"):
            check_needs(recipe, source, Limits(disk=needed[precision] - 1), tmp_path)
    assert needed["auto"] == needed["static"] + 2 * sizes[0]


@pytest.mark.parametrize("part", ["EXPORTERS", "ROUNDING"])
def test_what_it_takes_is_held_to_the_limits_before_the_source_is_asked(
    part: str, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.model_folder.offload.SHARE", 1e-9)
    monkeypatch.setattr(f"converter.forecast.{part}", 10**12)
    monkeypatch.setattr("converter.pipeline.capture_reference", lambda *_: pytest.fail("the source was asked"))
    recipe = bind_recipe({"model": str(tiny()), "targets": ["cpu-int8"]})
    with pytest.raises(ResourceLimit, match=r"of memory \(for (checks of the package|quantization)\)"):
        run_recipe(recipe, tmp_path / "out", limits=Limits(memory=20_000_000_000), device_map="auto")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"targets": ["ort-gpu"]}, "ort-gpu"),
        ({"targets": ["cpu-int8"], "compress": [{"stage": "prune.threshold", "sparsity": 0.5}]}, "--prune"),
    ],
)
def test_what_holds_all_weights_is_refused_by_name(
    more: dict[str, Any], where: str, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.model_folder.offload.SHARE", 1e-9)
    with pytest.raises(UsageError, match=f"{where}.*all weights in memory"):
        run_recipe(bind_recipe({"model": str(tiny()), **more}), tmp_path / "out", device_map="auto")
