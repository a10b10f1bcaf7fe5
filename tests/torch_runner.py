"""A runner that answers with the PyTorch model itself, and a target around it: what a gate sees is under control."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from converter.artifact import Bundle, TorchModel
from converter.examples import Example
from converter.graphs import MODEL, GraphSpec
from converter.model_folder.files import write_model_files
from converter.precision import Limits, unquantized
from converter.reference import capture_reference, torch_run
from converter.stage import SILENT, Context
from converter.target import DeviceCheck, GraphInfo, Runner, Target, TensorInfo
from converter.validate.checks import Check, Status
from converter.validate.owner import NAME as OWNER
from converter.validate.owner import OwnerVerdict
from converter.validate.proof import ProofContext
from tests.tiny import SENTENCES

Feed = Mapping[str, np.ndarray]
Outputs = dict[str, np.ndarray]
Change = Callable[[Outputs, Feed], Outputs]
"""Outputs and feed of one batch to other outputs."""


def unchanged(outputs: Outputs, feed: Feed) -> Outputs:
    return outputs


class TorchRunner(Runner):
    runtime = "torch"

    def __init__(self, model: TorchModel, change: Change = unchanged) -> None:
        self._run, self._change = torch_run(model), change
        spec = model.specs[MODEL]
        self.graphs = {
            MODEL: GraphInfo(
                tuple(TensorInfo(n, "int64", (None, None)) for n in spec.input_names),
                tuple(TensorInfo(n, "float32", (None, None)) for n in spec.output_names),
            )
        }

    def run(self, graph: str, feed: Feed) -> Outputs:
        return self._change(dict(self._run(graph, feed)), feed)


@dataclass(frozen=True)
class TorchTarget(Target):
    """Not a plugin: it lies in no `targets` folder."""

    name = "torch"
    summary = "the PyTorch model itself"
    own = (unquantized(Limits(agreement=0.98, max_error=1e-3, stability=0.98)),)
    precisions = ("none",)
    make_runner: ClassVar[Callable[[], Runner]]
    device: ClassVar[DeviceCheck | None] = None

    def check_runtime(self) -> None:
        """It is a dependency."""

    def stages(self, precision: str, options: Mapping[str, Any], model: TorchModel) -> tuple[()]:
        return ()

    def emit(self, given: Any, source: TorchModel, folder: Path, ctx: Context) -> Bundle:
        write_model_files(source, folder, {})
        (folder / "model.bin").write_bytes(b"weights" * 1000)
        return Bundle(folder, {MODEL: "model.bin"}, source)

    def model_files(self, folder: Path, specs: Mapping[str, GraphSpec]) -> Mapping[str, Path]:
        return {MODEL: folder / "model.bin"}

    def open(self, folder: Path, specs: Mapping[str, GraphSpec], threads: int = 1) -> Runner:
        return self.make_runner()

    def device_check(self, folder: Path, specs: Mapping[str, GraphSpec]) -> DeviceCheck | None:
        return self.device


def torch_target(make_runner: Callable[[], Runner], device: DeviceCheck | None = None) -> TorchTarget:
    """Return a target that opens every package with `make_runner`; its own class, since fields are recipe options."""
    return type("Made", (TorchTarget,), {"make_runner": staticmethod(make_runner), "device": device})()


def proof_context(model: TorchModel, work: Path, examples: tuple[Example, ...] = ()) -> ProofContext:
    """Return the context of a proof whose reference knows `examples` (the tiny models' own sentences).

    The owner's library is not asked here: tests of it have models of their own.
    """
    given = examples or tuple(Example(s) for s in SENTENCES)
    owner = OwnerVerdict(Check(OWNER, Status.PASS))
    return ProofContext(work, capture_reference(model, given, SILENT), owner)
