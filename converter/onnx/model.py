"""ONNX files as an artifact: what clients load, checked at every step."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from converter.artifact import Artifact, TorchModel, files_digest
from converter.errors import StageFailed
from converter.graphs import MODEL, GraphSpec, Run

MAX_OPSET = 22  # onnxruntime-web of transformers.js 4 and optimum-onnx 0.1 load up to here
MAX_IR_VERSION = 10


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """ONNX files on disk, one a graph, dynamic batch and length."""

    files: Mapping[str, Path]
    """By the name of the graph: `{"model": …}` for an encoder."""
    source: TorchModel
    """The (compressed) model they were exported from: task, tokenizer and configuration travel with it."""
    precision: str = "float32"

    @property
    def size_bytes(self) -> int:
        return sum(f.stat().st_size for path in self.files.values() for f in path.parent.glob(path.name + "*"))

    @cached_property
    def digest(self) -> str:
        return files_digest({f.name: f for path in self.files.values() for f in path.parent.glob(path.name + "*")})

    @property
    def file_precision(self) -> str:
        return self.precision

    @property
    def weight_files(self) -> tuple[Path, ...]:
        return tuple(self.files.values())

    def runs(self) -> Run:
        from converter.onnx.pieces import Pieces
        from converter.onnx.runner import OnnxRunner, open_lean_session

        if self.source.offloaded:
            return Pieces(self.files[MODEL]).run
        if self.precision != "float32":
            return OnnxRunner(self.files).run
        # Models that write text are large, and asked about few texts here.
        packed = self.source.cache is None
        sessions = {name: open_lean_session(path, packed=packed) for name, path in self.files.items()}
        return OnnxRunner(self.files, sessions=sessions).run

    def verify(self) -> None:
        specs = self.source.specs
        if tuple(self.files) != tuple(specs):
            raise StageFailed(f"there are ONNX files of {tuple(self.files)}, wanted {tuple(specs)}")
        for name, path in self.files.items():
            _verify_onnx(path, specs[name])


def _verify_onnx(path: Path, spec: GraphSpec) -> None:
    import onnx

    from converter.onnx.read import hollow_proto, read_onnx

    # Without the large weights: reading them to look at the graph would hold the model twice more.
    model, weights = hollow_proto(read_onnx(path))
    onnx.checker.check_model(model, full_check=False)
    opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
    if opset > MAX_OPSET or model.ir_version > MAX_IR_VERSION:
        raise StageFailed(
            f"opset {opset}, IR {model.ir_version}: the supported maximum is {MAX_OPSET} and {MAX_IR_VERSION}"
        )
    inputs = [i for i in model.graph.input if i.name not in weights]
    found = tuple(i.name for i in inputs)
    if found != spec.input_names:
        raise StageFailed(f"ONNX inputs are {found}, wanted {spec.input_names}")
    kinds = {"int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}
    for value, tensor in zip(inputs, spec.inputs, strict=True):
        dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        if not all(isinstance(d, str) or d == axis for d, axis in zip(dims, tensor.axes, strict=True)):
            raise StageFailed(f"ONNX input {value.name} has the fixed shape {dims}, wanted dynamic batch and length")
        if value.type.tensor_type.elem_type != kinds[tensor.dtype]:
            raise StageFailed(f"ONNX input {value.name} is not {tensor.dtype}")
    for value in model.graph.output:
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise StageFailed(f"ONNX output {value.name} is not float32")
    outputs = tuple(o.name for o in model.graph.output)
    if outputs != spec.output_names:
        raise StageFailed(f"ONNX outputs are {outputs}, wanted {spec.output_names}")
