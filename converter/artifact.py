"""A model in one representation.

Each artifact's `verify()` is the specification of that representation; `run_stage` calls it on what a stage made,
every time.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError, StageFailed
from converter.examples import PadIds

if TYPE_CHECKING:
    import torch

    from converter.model_folder.sentence_config import SentenceFolder
    from converter.model_folder.sentence_head import SentenceHead
    from converter.model_folder.shape_map import ShapeMap
    from converter.task import Task

MAX_OPSET = 22  # onnxruntime-web of transformers.js 4 and optimum-onnx 0.1 load up to here
MAX_IR_VERSION = 10


class Artifact(ABC):
    """Anything a stage takes or makes."""

    @abstractmethod
    def verify(self) -> None:
        """Raise `StageFailed` where this is not a sound artifact of its kind."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Bytes of the weights as this representation stores them."""


@dataclass(frozen=True)
class Provenance:
    """Where a model came from: kept in the manifest of every package made from it."""

    id: str
    """Hub id, or the folder's name (never a full local path: packages are shared)."""
    revision: str | None = None
    weights_sha256: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    dtype: str = "float32"
    """The number format the checkpoint was stored in; everything is computed in float32."""


@dataclass(frozen=True)
class TorchModel(Artifact):
    """A PyTorch model in float32 and evaluation mode, with all that is needed to feed and to judge it."""

    module: "torch.nn.Module"
    """The transformers model."""
    task: "Task"
    tokenizer: Any
    input_names: tuple[str, ...]
    max_length: int
    """Longest input in tokens, special tokens included."""
    provenance: Provenance
    folder: Path
    """Where tokenizer and configuration files are copied from."""
    head: "SentenceHead | None" = None
    """The modules after the encoder of an embedding model: pooling, projections, normalization."""
    sentence: "SentenceFolder | None" = None
    """What a sentence-transformers folder says of the model; `default_prompt_name` is the prompt that is applied."""
    shape_map: "ShapeMap | None" = None
    """What pruning has left; None for an unpruned model."""
    source_ids: tuple[int, ...] | None = None
    """The id in the source of every token that trimming has left, by its id now; None: the source's own vocabulary."""

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def pad(self) -> PadIds:
        return PadIds.of(self.tokenizer)

    @property
    def prompt_facts(self) -> dict[str, str | None] | None:
        """Name and text of the prompt that stands before every text, as a manifest keeps them; None without one."""
        if not self.task.prompt:
            return None
        return {"name": self.sentence.default_prompt_name if self.sentence else None, "text": self.task.prompt}

    @property
    def size_bytes(self) -> int:
        # What a file holds: buffers that are codes too, a tied weight once.
        tensors = {t.data_ptr(): t for t in self.module.state_dict().values()}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def graph(self) -> "torch.nn.Module":
        """Return the module that is measured and exported: named int inputs to a dict of named float32 outputs."""
        from converter.forward import Forward

        return Forward(self)

    def verify(self) -> None:
        import torch

        if self.module.training:
            raise StageFailed("the model is in training mode: dropout would be exported")
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                raise StageFailed(f"{name} is {tensor.dtype}, wanted float32")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise SourceError(
                    f"the weights hold NaN or infinite values in {name}", hint="the checkpoint is damaged"
                )


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """An ONNX file on disk, one graph, dynamic batch and length."""

    path: Path
    source: TorchModel
    """The (compressed) model it was exported from: task, tokenizer and configuration travel with it."""
    output_names: tuple[str, ...]
    precision: str = "float32"

    @property
    def size_bytes(self) -> int:
        return sum(f.stat().st_size for f in self.path.parent.glob(self.path.name + "*"))

    def verify(self) -> None:
        import onnx

        from converter.onnx.read import hollow_proto, read_onnx

        # Without the large weights: reading them to look at the graph would hold the model twice more.
        model, weights = hollow_proto(read_onnx(self.path))
        onnx.checker.check_model(model, full_check=False)
        opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
        if opset > MAX_OPSET or model.ir_version > MAX_IR_VERSION:
            raise StageFailed(
                f"opset {opset}, IR {model.ir_version}: clients load up to {MAX_OPSET} and {MAX_IR_VERSION}"
            )
        inputs = [i for i in model.graph.input if i.name not in weights]
        found = tuple(i.name for i in inputs)
        if found != self.source.input_names:
            raise StageFailed(f"ONNX inputs are {found}, wanted {self.source.input_names}")
        for value in inputs:
            dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            if not all(isinstance(d, str) for d in dims):
                raise StageFailed(
                    f"ONNX input {value.name} has the fixed shape {dims}, wanted dynamic batch and length"
                )
            if value.type.tensor_type.elem_type != onnx.TensorProto.INT64:
                raise StageFailed(f"ONNX input {value.name} is not int64")
        for value in model.graph.output:
            if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
                raise StageFailed(f"ONNX output {value.name} is not float32")
        outputs = tuple(o.name for o in model.graph.output)
        if outputs != self.output_names:
            raise StageFailed(f"ONNX outputs are {outputs}, wanted {self.output_names}")


@dataclass(frozen=True)
class Bundle(Artifact):
    """The files of one package, before they are sealed: what is measured is what ships."""

    folder: Path
    model_file: str
    """The model, relative to `folder`."""
    source: TorchModel
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What the package could have held and does not, and why."""

    @property
    def size_bytes(self) -> int:
        return (self.folder / self.model_file).stat().st_size

    def verify(self) -> None:
        for needed in (self.model_file, "config.json", "tokenizer.json", "tokenizer_config.json"):
            path = self.folder / needed
            if not path.is_file() or path.stat().st_size == 0:
                raise StageFailed(f"the package lacks {needed}, or it is empty")
