"""The steps of a package, run again one by one: what each made, and how to look inside."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import Artifact, TorchModel
from converter.errors import StageFailed
from converter.explain.layers import Feed, Inside, Values, torch_layers
from converter.graphs import MODEL, Run
from converter.onnx.model import OnnxModel
from converter.precision import Quantizer
from converter.tflite.model import TfliteModel

if TYPE_CHECKING:
    from converter.stage import Context, Stage

EXPORT, REWRITE, QUANTIZE = "export", "rewrite", "quantize"


@dataclass(frozen=True)
class Step:
    """One step that was run again; `failed` where it refused what it made itself."""

    boundary: str
    name: str
    made: Artifact | None
    failed: str = ""


def run_steps(stages: "Sequence[Stage[Any, Any]]", given: TorchModel, ctx: "Context") -> Iterator[Step]:
    """Run the stages of a target again, one by one; ends at one that fails."""
    from converter.stage import run_stage

    artifact: Artifact = given
    for stage in stages:
        boundary = QUANTIZE if isinstance(stage, Quantizer) else EXPORT
        name = stage.name or type(stage).__name__
        try:
            artifact, _ = run_stage(stage, artifact, ctx)
        except StageFailed as error:
            yield Step(boundary, name, None, str(error))
            return
        yield Step(boundary, name, artifact)


def rewrites_of(given: TorchModel, work: Path) -> Iterator[tuple[str, Path]]:
    """Export to ONNX anew and yield the file after the bare export, then after each rewrite, by its name."""
    from converter.onnx import export
    from converter.onnx.rewrites import order
    from converter.onnx.write import write_onnx

    path = work / "rewritten" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    with export.quiet_exporter():
        model = export.export_graph(given)
        for name, rewrite in (("", None), *((r.name, r) for r in order.EXPORTED)):
            if rewrite is not None:
                rewrite.run(model)
            write_onnx(model, path)
            yield name, path


def run_of(artifact: Artifact) -> Run:
    """Return how what a step made answers, on the kernels of its users."""
    if isinstance(artifact, TfliteModel):
        from converter.tflite.runner import TfliteRunner

        return TfliteRunner(artifact.path, artifact.source.specs).run
    run = artifact.runs()
    assert run is not None, "every other artifact runs on its own"
    return run


def inside_of(artifact: Artifact) -> Inside:
    """Return how to look inside what a step made."""
    if isinstance(artifact, TorchModel):
        return lambda feed: torch_layers(artifact, feed)
    if isinstance(artifact, TfliteModel):
        return lambda feed: _tflite(artifact.path, artifact.source, feed)
    assert isinstance(artifact, OnnxModel)
    return lambda feed: onnx_inside(artifact.files[MODEL], feed)


def inside_package(folder: Path, file: str, source: TorchModel) -> Inside:
    """Return how to look inside the file of a package."""
    path = folder / file
    return lambda feed: _tflite(path, source, feed) if path.suffix == ".tflite" else onnx_inside(path, feed)


def onnx_inside(path: Path, feed: Feed) -> Values:
    from converter.onnx.intermediate import onnx_values

    return onnx_values(path, feed)


def _tflite(path: Path, source: TorchModel, feed: Feed) -> Values:
    from converter.tflite.intermediate import tflite_values

    return tflite_values(path, source.specs[MODEL], feed)
