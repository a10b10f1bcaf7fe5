"""`cpu-int8`: an ONNX package in the Hugging Face layout for ONNX Runtime on CPUs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import Artifact, Bundle, TorchModel
from converter.binding import bind
from converter.generate.graphs import has_cache
from converter.graphs import GraphSpec
from converter.onnx.export import ExportOnnx
from converter.onnx.model import OnnxModel
from converter.onnx.package import emit_onnx, find_models, usage
from converter.onnx.runner import CPU, OnnxRunner, open_lean_session
from converter.precision import Limits, unquantized
from converter.registry import quantizers
from converter.stage import Context, Stage
from converter.target import Runner, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.package.golden import Golden
    from converter.reference import Reference
    from converter.validate.checks import Check, Evaluation
    from converter.validate.proof import ProofContext
    from converter.validate.stored import Stored


@dataclass(frozen=True)
class CpuInt8(Target):
    name = "cpu-int8"
    summary = "int8 ONNX for ONNX Runtime on CPUs, in the Hugging Face folder layout"
    own = (unquantized(Limits(max_error=1e-4, agreement=0.999, stability=0.999, sequences=0.999, perplexity=1.01)),)
    precisions = ("static", "dynamic", "int8", "int4", "none")
    auto = ("static", "dynamic")
    writes = ("int8", "dynamic", "static", "int4", "none")
    default = True
    by_pieces = True
    timed = True

    def check_runtime(self) -> None:
        """ONNX Runtime is a core dependency."""

    def stages(self, precision: str, options: Mapping[str, Any], model: TorchModel) -> Sequence[Stage[Any, Any]]:
        where = "quantize.cpu-int8"
        if precision == "none":
            return (bind(ExportOnnx, options, where),)
        return (ExportOnnx(), bind(quantizers(self.name)[precision], options, where))

    def emit(self, given: Artifact, source: TorchModel, folder: Path, ctx: Context) -> Bundle:
        assert isinstance(given, OnnxModel)
        return emit_onnx(given, source, folder, self.menu())

    def model_files(self, folder: Path, specs: Mapping[str, GraphSpec]) -> Mapping[str, Path]:
        return find_models(folder, specs)

    def open(self, folder: Path, specs: Mapping[str, GraphSpec], threads: int = 1) -> Runner:
        return OnnxRunner(find_models(folder, specs), threads, arena=not has_cache(specs))

    def open_mapped(self, folder: Path, specs: Mapping[str, GraphSpec]) -> Runner:
        """Map the weights from the file, where reading it would hold them beside what is packed of them."""
        files = find_models(folder, specs)
        sessions = {name: open_lean_session(path, packed=True) for name, path in files.items()}
        return OnnxRunner(files, sessions=sessions)

    def own_checks(
        self, bundle: Bundle, source: TorchModel, reference: "Reference", runner: Runner, proof: "ProofContext"
    ) -> "tuple[list[Check], dict[str, Any]]":
        """Return what the file is safe on, without judging it, as a user may ask for weights without the bound.

        Of models that write text it is judged that no weight is there twice: their tables are most of a file; and
        that other clients are told what the model's own files say.
        """
        from converter.onnx.accumulators import instruction_sets
        from converter.onnx.genai_config import check_clients
        from converter.onnx.stored_once import check_stored_once

        files = [bundle.folder / f for f in dict.fromkeys(bundle.files.values())]
        checks = [] if source.cache is None else [check_stored_once(files), *check_clients(bundle)]
        return checks, {"instruction_sets": instruction_sets(*files)}

    def accompany(
        self, bundle: Bundle, golden: "Golden", runner: Runner, evaluation: "Evaluation", tolerance: float
    ) -> dict[str, Any]:
        """Write the samples of a package that writes text; what it wrote is what they are tried on."""
        from converter.device.tried import try_sample
        from converter.onnx.writing_samples import write_samples

        if bundle.source.cache is not None:
            task: Any = bundle.source.task
            sample = write_samples(bundle, golden.written, task.judged_settings.max_new_tokens)
            try_sample(sample, bundle.folder)
        return {}

    def parameters(self, path: Path, *, vectors_only: bool = False) -> "Iterator[Stored]":
        from converter.onnx.parameters import stored_parameters

        return stored_parameters(path, vectors_only=vectors_only)

    def product_weights(self, bundle: Bundle) -> "Iterator[NDArray[Any]]":
        from converter.onnx.weights import product_weights

        return chain.from_iterable(product_weights(bundle.folder / f) for f in dict.fromkeys(bundle.files.values()))

    def usage(self, bundle: Bundle) -> str:
        return usage(bundle, CPU)
