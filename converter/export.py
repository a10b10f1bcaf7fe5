"""PyTorch to ONNX: dynamic batch and length, held to tight equality with the model it came from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.artifact import MAX_IR_VERSION, OnnxModel, TorchModel
from converter.binding import option
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    import torch

OPSET = 18


@dataclass(frozen=True)
class ExportOnnx(Stage[TorchModel, OnnxModel]):
    """Export with `torch.onnx.export(dynamo=True)`."""

    opset: int = option(OPSET, "ONNX opset of the file", low=17, high=22)

    name = "export.onnx"
    summary = "PyTorch to ONNX float32"
    lossless = True

    def run(self, given: TorchModel, ctx: Context) -> Outcome[OnnxModel]:
        import torch

        folder = ctx.work / "onnx"
        folder.mkdir(exist_ok=True)
        path = folder / "model.onnx"
        graph = given.graph().eval()
        sample = _sample(given)
        batch, length = (
            torch.export.Dim("batch", min=1, max=4096),
            torch.export.Dim("length", min=1, max=given.max_length),
        )
        with ctx.progress.task("Exporting to ONNX"), torch.no_grad():
            program = torch.onnx.export(
                graph,
                (),
                kwargs=sample,
                dynamo=True,
                opset_version=self.opset,
                verbose=False,
                dynamic_shapes={name: {0: batch, 1: length} for name in sample},
                input_names=list(sample),
                output_names=list(output_names(given)),
            )
            assert program is not None
            program.model.ir_version = min(program.model.ir_version, MAX_IR_VERSION)
            program.save(str(path), external_data=False)
        return Outcome(OnnxModel(path, given, output_names(given)), {"opset": self.opset})


def output_names(model: TorchModel) -> tuple[str, ...]:
    return (*model.task.model_outputs, *(("sentence_embedding",) if model.head is not None else ()))


def _sample(model: TorchModel) -> "dict[str, torch.Tensor]":
    """Two texts of different lengths, so that nothing in the trace can depend on a mask of ones."""
    import torch

    n = min(12, model.max_length)
    low = {"input_ids": 5, "attention_mask": 1, "token_type_ids": 0}
    made = {name: torch.full((2, n), low[name], dtype=torch.int64) for name in model.input_names}
    made["attention_mask"][1, n // 2 :] = 0
    made["input_ids"][1, n // 2 :] = model.pad.ids["input_ids"]
    return made
