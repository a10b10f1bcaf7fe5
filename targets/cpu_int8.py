"""`cpu-int8`: an ONNX package in the Hugging Face layout for ONNX Runtime on CPUs."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.artifact import Artifact, Bundle, OnnxModel, TorchModel
from converter.binding import bind
from converter.examples import PadIds
from converter.export import ExportOnnx
from converter.quantize.dynamic import DynamicInt8
from converter.stage import Context, Stage
from converter.target import Runner, Target, TensorSpec
from converter.validate.limits import Limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL_FILE = "onnx/model_quantized.onnx"


@dataclass(frozen=True)
class CpuInt8(Target):
    name = "cpu-int8"
    summary = "int8 ONNX for ONNX Runtime on CPUs"
    precisions = ("dynamic", "none")

    def check_runtime(self) -> None:
        """ONNX Runtime is a core dependency."""

    def stages(self, precision: str, options: Mapping[str, Any], model: TorchModel) -> Sequence[Stage[Any, Any]]:
        if precision == "none":
            return (ExportOnnx(),)
        return (ExportOnnx(), bind(DynamicInt8, options, "quantize.cpu-int8"))

    def emit(self, given: Artifact, source: TorchModel, folder: Path, ctx: Context) -> Bundle:
        assert isinstance(given, OnnxModel)
        (folder / "onnx").mkdir()
        shutil.copyfile(given.path, folder / MODEL_FILE)
        source.tokenizer.save_pretrained(folder)
        source.config.save_pretrained(folder)
        return Bundle(folder, MODEL_FILE, source)

    def open(self, folder: Path, pad: PadIds, threads: int = 1) -> Runner:
        return OrtRunner(folder / MODEL_FILE, threads)

    def limits(self, precision: str) -> Limits:
        return Limits(agreement=0.98)


class OrtRunner(Runner):
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.runtime = f"onnxruntime {ort.__version__} CPUExecutionProvider"
        self.inputs = tuple(TensorSpec(i.name, i.type, tuple(i.shape)) for i in self.session.get_inputs())
        self.outputs = tuple(TensorSpec(o.name, o.type, tuple(o.shape)) for o in self.session.get_outputs())

    def run(self, feed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.float32]]":
        made = self.session.run(None, {i.name: feed[i.name] for i in self.inputs})
        return dict(zip([o.name for o in self.outputs], made, strict=True))
