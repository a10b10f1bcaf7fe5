"""PyTorch to ONNX: dynamic batch and length, held to tight equality with the model it came from."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.artifact import TorchModel
from converter.binding import option
from converter.errors import StageFailed
from converter.graphs import BATCH, MODEL, SEQUENCE
from converter.onnx.equality import check_exported
from converter.onnx.model import MAX_IR_VERSION, OnnxModel
from converter.resources import release_memory
from converter.rewrite import apply_rewrites
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

OPSET = 18
RECORDED = ("one_token_nodes", "idle_biases", "merged_projections", "residual_sums", "gelus")
"""The rewrites whose number of changes stands in the record: those that users meet in the graph."""


@dataclass(frozen=True)
class ExportOnnx(Stage[TorchModel, OnnxModel]):
    """Export with `torch.onnx.export(dynamo=True)`, simplify the graph, and compare the file with the PyTorch model.

    Raises (from `run`):
        StageFailed: the file differs from the model by more than 1e-4 of the output range.
        ResourceLimit: the file would exceed 2 GB.
    """

    opset: int = option(OPSET, "ONNX opset of the file", low=17, high=22)

    name = "export.onnx"
    summary = "PyTorch to ONNX float32"
    takes = ("encoder", "decoder", "encoder-decoder")

    def run(self, given: TorchModel, ctx: Context) -> Outcome[OnnxModel]:
        if given.cache is not None:
            from converter.onnx.text_export import export_text

            return export_text(given, ctx, self.opset)
        from converter.model_folder.offload import mapped_in
        from converter.onnx.rewrites.order import EXPORTED, soundness_of
        from converter.onnx.write import write_onnx

        path = ctx.work / "onnx" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        lies = mapped_in(given.module, ctx.work / "mapped")
        with ctx.progress.task("Exporting to ONNX"), quiet_exporter(), lies:
            model = export_graph(given, self.opset)
            changes = apply_rewrites(EXPORTED, model, soundness_of(model))
            facts: dict[str, Any] = {
                "opset": model.opset_imports[""],
                "ir_version": model.ir_version,
                **{name: changes[name] for name in RECORDED},
            }
            write_onnx(model, path)
            del model
            # The exporter's graphs are reference cycles: their weights would stay until some later collection.
            release_memory()
        made = OnnxModel({MODEL: path}, given)
        return Outcome(made, facts | check_exported(made, ctx))


def export_graph(given: TorchModel, opset: int = OPSET) -> "ir.Model":
    """Return the graph as PyTorch exports it, before any rewrite.

    Raises:
        StageFailed: PyTorch cannot export the model; says why.

    """
    import torch

    from converter.forward import traced_in_order

    spec, n = given.specs[MODEL], min(12, given.max_length)
    # Two texts of different lengths, so that nothing in the trace can depend on a mask of ones.
    feed = spec.dummy({BATCH: 2, SEQUENCE: n}, padding=n - n // 2)
    sample = {name: torch.from_numpy(rows) for name, rows in feed.items()}
    batch = torch.export.Dim("batch", min=1, max=4096)
    length = torch.export.Dim("length", min=1, max=given.max_length)
    with eager_attention(given.module), traced_in_order(given.module), torch.no_grad():
        try:
            program = torch.onnx.export(
                given.graphs()[MODEL].eval(),
                (),
                kwargs=sample,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                dynamic_shapes={name: {0: batch, 1: length} for name in sample},
                input_names=list(sample),
                output_names=list(spec.output_names),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise StageFailed(
                f"PyTorch cannot export this model to ONNX ({first_cause(error)})",
                where=given.provenance.id,
                hint="export it to TFLite instead: --target tflite",
            ) from error
    assert program is not None
    model: ir.Model = program.model
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    return model


def first_cause(error: BaseException) -> str:
    """Return what began it, on one line: with the next line where the first one only announces it."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    announced = lines[0].endswith(":") or "For more information" in lines[0]
    return " ".join(lines[: 2 if announced else 1])[:300]


@contextlib.contextmanager
def eager_attention(module: "torch.nn.Module") -> Iterator[None]:
    """Attention written out: the fused form exports with a NaN guard and a dozen shape nodes a layer."""
    config: Any = module.config
    before = config._attn_implementation  # noqa: SLF001 - there is no public reader
    module.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        yield
    finally:
        module.set_attn_implementation(before)  # type: ignore[operator]


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """The exporter warns of torchvision, of axis names and of its own deprecations: nothing a user can act on.

    Nor is a line of code noted for each operation: it would not stand in the file, and takes a twentieth of the time.
    """
    import torch.fx.config

    before, noted = logging.root.manager.disable, torch.fx.config.do_not_emit_stack_traces
    logging.disable(logging.WARNING)
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = noted
        logging.disable(before)
