"""Models that write text to ONNX: one file a graph, with a cache, under the names that clients look for."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import StageFailed
from converter.generate.graphs import DECODER, ENCODER, PAST_ENCODER, PAST_PREFIX, TOTAL
from converter.graphs import BATCH, ENCODER_SEQUENCE, MODEL, PAST, SEQUENCE, GraphSpec, TensorSpec
from converter.onnx.export import OPSET, eager_attention, first_cause, quiet_exporter
from converter.onnx.model import MAX_IR_VERSION, OnnxModel

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from converter.artifact import TorchModel
    from converter.stage import Context, Outcome

SIZES = {BATCH: 2, SEQUENCE: 3, PAST: 5, TOTAL: 8, ENCODER_SEQUENCE: 7, PAST_ENCODER: 4}
"""What the exporter is shown. All differ, or it would take two axes for one."""
AXES = {
    BATCH: "batch_size",
    SEQUENCE: "sequence_length",
    PAST: "past_sequence_length",
    TOTAL: "total_sequence_length",
    ENCODER_SEQUENCE: "encoder_sequence_length",
    PAST_ENCODER: "past_encoder_sequence_length",
}
"""The names that axes have in files: transformers.js finds the batch by its name."""
HEADS = ("num_heads", "head_dim")
"""Names in place of the numbers of heads and their size: Optimum works them out itself, wrongly where the head size is
not width / heads, unless the file leaves them open."""


LONGEST = 1024
"""Tokens of the longest text that the files are compared with PyTorch on: logits of more fill the memory."""


def export_text(given: "TorchModel", ctx: "Context", opset: int) -> "Outcome[OnnxModel]":
    """Export a model that writes text, and compare its files with PyTorch, with and without a cache.

    Raises:
        StageFailed: PyTorch cannot export the model, or its file differs by more than 1e-4 of the range of the logits.
        ResourceLimit: a file would exceed 2 GB.

    """
    from converter.onnx.runner import OnnxRunner, open_lean_session
    from converter.onnx.text_equality import check_text_graphs
    from converter.resources import release_memory
    from converter.stage import Outcome

    with ctx.progress.task("Exporting to ONNX"):
        files = export_text_graphs(given.module, given.specs, ctx.work / "onnx", opset)
        release_memory()
    made = OnnxModel(files, given)
    with ctx.progress.task("Comparing with PyTorch"):
        # Weights stay in the file: packed by the runtime they would be in memory twice more.
        runner = OnnxRunner(files, sessions={name: open_lean_session(path) for name, path in files.items()})
        facts = check_text_graphs(given.module, given.specs, runner.run, min(given.max_length, LONGEST))
        del runner
        release_memory()
    return Outcome(made, {"opset": opset, "ir_version": MAX_IR_VERSION, **facts})


def export_text_graphs(
    model: "torch.nn.Module", specs: Mapping[str, GraphSpec], folder: Path, opset: int = OPSET
) -> dict[str, Path]:
    """Write every graph of `model` to `folder` as `<graph>.onnx`; returns the files by graph.

    Raises:
        StageFailed: PyTorch cannot export the model.
        ResourceLimit: a file would exceed 2 GB.

    """
    from converter.forward import traced_in_order
    from converter.generate.modules import graph_modules
    from converter.onnx.write import write_onnx
    from converter.resources import release_memory

    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    with quiet_exporter(), eager_attention(model), traced_in_order(model), _gathered_experts(model):
        for name, module in graph_modules(model).items():
            made = _export(module, specs[name], opset)
            _tidy(made, specs[name])
            files[name] = folder / f"{name}.onnx"
            write_onnx(made, files[name])
            del made
            release_memory()
    return files


def _export(module: "torch.nn.Module", spec: GraphSpec, opset: int) -> "ir.Model":
    import torch

    feed = _sample(spec)
    with _patched(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module.eval(),
                kwargs={"feed": feed},  # a table among the positional arguments would be taken for them
                dynamo=True,
                opset_version=opset,
                verbose=False,
                dynamic_shapes={"feed": _dynamic_shapes(spec)},
                input_names=list(spec.input_names),
                output_names=list(spec.output_names),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise StageFailed(
                f"PyTorch cannot export {spec.name} to ONNX ({first_cause(error)})", where=type(module).__name__
            ) from error
    assert program is not None
    made: ir.Model = program.model
    made.ir_version = min(made.ir_version, MAX_IR_VERSION)
    return made


@contextmanager
def _gathered_experts(module: "torch.nn.Module") -> Iterator[None]:
    """Mixtures of experts with the weights of the chosen ones gathered: the other forms branch on the data."""
    model: Any = module
    before = getattr(model.config, "_experts_implementation", None)
    if before is None:
        yield
        return
    try:
        model.set_experts_implementation("batched_mm")
    except ValueError:  # has no experts, or knows one way only
        yield
        return
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def _patched() -> AbstractContextManager[None]:
    """Changes that transformers itself makes to its models while they are exported."""
    import transformers.exporters.exporter_onnx  # noqa: F401 - registers them
    from transformers.exporters.utils import apply_patches

    patches: AbstractContextManager[None] = apply_patches("onnx")
    return patches


def _sample(spec: GraphSpec) -> "dict[str, torch.Tensor]":
    """Return two texts of which the second is padded: an all-ones mask is traced away."""
    import torch

    made = {}
    for tensor, rows in zip(spec.inputs, spec.dummy(SIZES, padding=0).values(), strict=True):
        if tensor.name.endswith("attention_mask"):
            rows[-1, (slice(0, 2) if tensor.side == "left" else slice(-2, None))] = 0
        if tensor.name == "position_ids":
            rows[:] = range(SIZES[PAST], SIZES[PAST] + SIZES[SEQUENCE])
        made[tensor.name] = torch.from_numpy(rows)
    return made


def _dynamic_shapes(spec: GraphSpec) -> dict[str, dict[int, Any]]:
    import torch

    dims = {axis: torch.export.Dim(name) for axis, name in AXES.items() if axis != TOTAL}
    # The sum of two others: the exporter derives it itself.
    dims[TOTAL] = torch.export.Dim.DYNAMIC
    return {t.name: {i: dims[a] for i, a in enumerate(t.axes) if isinstance(a, str)} for t in spec.inputs}


def _tidy(model: "ir.Model", spec: GraphSpec) -> None:
    from converter.onnx.rewrites.order import WITH_CACHE, soundness_of
    from converter.rewrite import apply_rewrites

    apply_rewrites(WITH_CACHE, model, soundness_of(model))
    model.graph.name = {MODEL: "decoder", DECODER: "decoder", ENCODER: "encoder"}[spec.name]
    for value, tensor in (
        *zip(model.graph.inputs, spec.inputs, strict=True),
        *zip(model.graph.outputs, spec.outputs, strict=True),
    ):
        _name_axes(value, tensor)


def _name_axes(value: "ir.Value", tensor: TensorSpec) -> None:
    import onnx_ir as ir

    assert value.name == tensor.name, f"{value.name} is where {tensor.name} belongs"
    dims: list[str | int] = [AXES.get(a, a) if isinstance(a, str) else a for a in tensor.axes]
    if tensor.name.startswith(PAST_PREFIX):
        dims[1], dims[3] = HEADS
    value.shape = ir.Shape(dims)
