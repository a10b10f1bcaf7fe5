"""`ort-gpu`: an fp16 ONNX package in the Hugging Face layout for ONNX Runtime's CUDA provider."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.artifact import Artifact, Bundle, TorchModel
from converter.binding import bind
from converter.generate.forcing import forced_logits
from converter.generate.graphs import DECODER, cache_names
from converter.graphs import BATCH, ENCODER_SEQUENCE, SEQUENCE, GraphSpec, run_graphs
from converter.onnx.export import ExportOnnx
from converter.onnx.model import OnnxModel
from converter.onnx.package import emit_onnx, find_models, usage
from converter.onnx.runner import CPU, OnnxRunner
from converter.precision import Limits, unquantized
from converter.registry import quantizers
from converter.scoring.relative_error import REPLAY_FLOOR, relative_error
from converter.stage import Context, Stage
from converter.target import DeviceCheck, Runner, Target

CUDA = "CUDAExecutionProvider"
DEVICE_MAX_ERROR = 0.03
"""CUDA against CPU over the output range: two orders of summation in float16."""

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.reference import Reference
    from converter.validate.checks import Check
    from converter.validate.proof import ProofContext
    from converter.validate.stored import Stored


@dataclass(frozen=True)
class OrtGpu(Target):
    name = "ort-gpu"
    summary = "fp16 ONNX for ONNX Runtime on NVIDIA GPUs, in the Hugging Face folder layout"
    extra = "gpu"
    own = (unquantized(Limits(max_error=1e-4, agreement=0.999, stability=0.999, sequences=0.999, perplexity=1.01)),)
    precisions = ("fp16", "none")
    writes = ("fp16", "none")

    def check_runtime(self) -> None:
        """Nothing is needed to make it: without a GPU it is proven on the CPU, and `device_check` says so."""

    def stages(self, precision: str, options: Mapping[str, Any], model: TorchModel) -> Sequence[Stage[Any, Any]]:
        where = "quantize.ort-gpu"
        if precision == "none":
            return (bind(ExportOnnx, options, where),)
        return (ExportOnnx(), bind(quantizers(self.name)[precision], options, where))

    def emit(self, given: Artifact, source: TorchModel, folder: Path, ctx: Context) -> Bundle:
        assert isinstance(given, OnnxModel)
        return emit_onnx(given, source, folder, self.menu())

    def model_files(self, folder: Path, specs: Mapping[str, GraphSpec]) -> Mapping[str, Path]:
        return find_models(folder, specs)

    def open(self, folder: Path, specs: Mapping[str, GraphSpec], threads: int = 1) -> Runner:
        return OnnxRunner(find_models(folder, specs), threads, (CUDA, CPU) if _has_cuda() else (CPU,))

    def device_check(self, folder: Path, specs: Mapping[str, GraphSpec]) -> DeviceCheck:
        """Run on the GPU, several shapes, and compare with the CPU; `ran` False where there is no GPU."""
        if not _has_cuda():
            return DeviceCheck(ran=False, detail="onnxruntime has no CUDA provider here; proven on the CPU provider")
        files = find_models(folder, specs)
        device, host = OnnxRunner(files, providers=(CUDA, CPU)), OnnxRunner(files)
        if CUDA not in device.runtime:
            return DeviceCheck(ran=False, detail=f"the CUDA provider did not start; {device.runtime} ran instead")
        worst = max(_difference(device, host, specs, shape) for shape in ((1, 1), (1, 16), (8, 64)))
        detail = f"{device.runtime}, within {worst:.1e} of the CPU (at most {DEVICE_MAX_ERROR:g} wanted)"
        return DeviceCheck(ran=True, detail=detail, passed=worst <= DEVICE_MAX_ERROR)

    def own_checks(
        self, bundle: Bundle, source: TorchModel, reference: "Reference", runner: Runner, proof: "ProofContext"
    ) -> "tuple[list[Check], dict[str, Any]]":
        """Return whether other clients are told what the model's own files say."""
        from converter.onnx.genai_config import check_clients

        return check_clients(bundle), {}

    def parameters(self, path: Path, *, vectors_only: bool = False) -> "Iterator[Stored]":
        from converter.onnx.parameters import stored_parameters

        return stored_parameters(path, vectors_only=vectors_only)

    def product_weights(self, bundle: Bundle) -> "Iterator[NDArray[Any]]":
        from converter.onnx.weights import product_weights

        return chain.from_iterable(product_weights(bundle.folder / f) for f in dict.fromkeys(bundle.files.values()))

    def usage(self, bundle: Bundle) -> str:
        return usage(bundle, CUDA)


def _has_cuda() -> bool:
    import onnxruntime as ort

    return CUDA in ort.get_available_providers()


def _difference(device: OnnxRunner, host: OnnxRunner, specs: Mapping[str, GraphSpec], shape: tuple[int, int]) -> float:
    """Return the largest error over the output range; infinite where an output is not finite."""
    sizes = {BATCH: shape[0], SEQUENCE: shape[1], ENCODER_SEQUENCE: shape[1]}
    if any(cache_names(spec) for spec in specs.values()):
        # Half of a text is fed behind the other half's cache.
        wanted, found = ({"logits": _written(runner, specs, sizes)} for runner in (host, device))
    else:
        feed = next(iter(specs.values())).dummy(sizes)
        wanted, found = (dict(run_graphs(specs, runner.run, feed)) for runner in (host, device))
    if not all(np.isfinite(v).all() for v in found.values()):
        return float("inf")
    return max(relative_error(found[n], v, float(np.ptp(v)), REPLAY_FLOOR) for n, v in wanted.items())


def _written(runner: OnnxRunner, specs: Mapping[str, GraphSpec], sizes: dict[str, int]) -> "NDArray[np.float32]":
    """Return the logits of made-up texts, with and without a cache."""
    ids = next(t for t in next(iter(specs.values())).inputs if t.name == "input_ids")
    shape = (sizes[BATCH], sizes[SEQUENCE])
    random = np.random.default_rng(0)
    text, answer = (random.integers(*ids.draw, shape, endpoint=True) for _ in range(2))
    feed = {"input_ids": text, "attention_mask": np.ones_like(text)}
    return forced_logits(runner.run, specs, feed, answer if DECODER in specs else None, (shape[1] // 2,))
