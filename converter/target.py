"""The contract of a target: it emits files *and* opens them again."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from converter.errors import UsageError
from converter.precision import Limits, Precision
from converter.registry import quantizers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from converter.artifact import Artifact, Bundle, TorchModel
    from converter.graphs import GraphSpec
    from converter.package.golden import Golden
    from converter.package.shipped import Shipped
    from converter.reference import Reference
    from converter.stage import Context, Stage
    from converter.validate.checks import Check, Evaluation
    from converter.validate.proof import ProofContext
    from converter.validate.stored import Stored


@dataclass(frozen=True)
class TensorInfo:
    """One input or output as an opened file itself tells of it; None is a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class GraphInfo:
    """Inputs and outputs of one graph as an opened file itself tells of them."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class Runner(ABC):
    """Shipped files, opened in the runtime that their users have."""

    runtime: str
    """Name, version and backend, as `onnxruntime 1.32.0 CPUExecutionProvider`."""
    graphs: "Mapping[str, GraphInfo]"
    """What callers see of each graph, by its name."""
    max_batch: int | None = None
    """None: any batch; 1: the file takes one text at a time."""
    lengths: tuple[int, ...] = ()
    """Fixed lengths that the file offers; empty: any length up to the model's maximum."""
    max_length: int | None = None
    """Longest input that the file takes, in tokens, where that is less than the model's; None: the model's."""
    side_by_side: bool = False
    """Whether several threads may call `run` at once: each call computes in the thread that makes it, and alike."""

    @abstractmethod
    def run(self, graph: str, feed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.float32]]":
        """Run one batch of int64 `[batch, length]` inputs, padded by the runner where the file's lengths are fixed.

        A pure function: nothing is kept from one call to the next. Outputs come by name; those with a length axis are
        cut to the `length` that was fed.
        """


@dataclass(frozen=True)
class DeviceCheck:
    """Whether the package ran on the device it is for. `ran` False is reported as NOT_RUN, never as passed."""

    ran: bool
    detail: str
    passed: bool = True
    """Whether it answered there as it does on the CPU; meaningless where it did not run."""


@dataclass(frozen=True)
class Aim:
    """A package to be made, by name."""

    target: str
    precision: Precision


class Target(ABC):
    """A frozen dataclass: its fields are the target's options. `targets/<name>.py` holds it."""

    name: ClassVar[str]
    summary: ClassVar[str]
    extra: ClassVar[str] = ""
    """The extra to install where a runtime is missing."""
    runtime_module: ClassVar[str] = "onnxruntime"
    """What `open` imports: the memory that it takes itself is no package's."""
    own: ClassVar[tuple[Precision, ...]]
    """Precisions that no quantizer makes: `none`."""
    precisions: ClassVar[tuple[str, ...]]
    """The order of its menu, its default first; quantizers that are not named here come before `none`."""
    auto: ClassVar[tuple[str, ...]] = ()
    """What `auto` tries, as typed behind `--quantize`; empty: the whole menu but `none`."""
    writes: ClassVar[tuple[str, ...]] = ()
    """Precisions in which it packs models that write text; empty: it packs none of them."""
    default: ClassVar[bool] = False
    """A run that names no target makes this one; one target has it."""
    by_pieces: ClassVar[bool] = False
    """It makes a package of an encoder whose weights are on disk, a piece of them in memory at a time."""
    timed: ClassVar[bool] = False
    """Its runtime is the one that `structured.timing` times sublayers in: their times are those of its packages."""
    input_dtype: ClassVar[str] = "int64"
    """What callers feed: every input of the package must be of this type."""

    @classmethod
    def candidates(cls) -> tuple[str, ...]:
        """Return what `auto` makes and measures, in this order."""
        names = tuple(cls.menu())
        return cls.auto or tuple(name for name in names if name != "none") or names[:1]

    @classmethod
    def menu(cls) -> dict[str, Precision]:
        """Return the precisions that it offers by name, its default first: its own, and those of its quantizers."""
        made = {q.precision.name: q.precision for q in quantizers(cls.name).values()}
        known = made | {p.name: p for p in cls.own}
        listed = [name for name in cls.precisions if name in known]
        more = [name for name in known if name not in listed]
        place = len(listed) - 1 if listed[1:] and listed[-1] == "none" else len(listed)
        return {name: known[name] for name in (*listed[:place], *more, *listed[place:])}

    @abstractmethod
    def check_runtime(self) -> None:
        """Raise `RuntimeMissing`, with the pip line as hint, where this target cannot be made here."""

    @abstractmethod
    def stages(self, precision: str, options: Mapping[str, Any], model: "TorchModel") -> "Sequence[Stage[Any, Any]]":
        """Return the stages from a `TorchModel` to what `emit` takes. Equal stages of two targets are run once."""

    @abstractmethod
    def emit(self, given: "Artifact", source: "TorchModel", folder: Path, ctx: "Context") -> "Bundle":
        """Write the package's files (all but manifest, golden vectors and README) into the empty `folder`."""

    @abstractmethod
    def open(self, folder: Path, specs: "Mapping[str, GraphSpec]", threads: int = 1) -> Runner:
        """Open the package in its runtime. Works on a folder alone: no source model is needed."""

    def open_mapped(self, folder: Path, specs: "Mapping[str, GraphSpec]") -> Runner:
        """Return what `open` does, with as little memory on the way to it as the runtime can do with."""
        return self.open(folder, specs)

    @abstractmethod
    def model_files(self, folder: Path, specs: "Mapping[str, GraphSpec]") -> Mapping[str, Path]:
        """Return the file that `open` opens for each graph, by the graph's name."""

    def check_shipped(self, shipped: "Shipped") -> tuple[str, ...]:
        """Replay, for `verify`, what the package ships beside the model; returns the names of what was replayed.

        Raises:
            PackageDamaged: something does not answer as the model does.

        """
        return ()

    def refuse_writer(self, precision: str, task: str) -> None:
        """Raise for a model that writes text where this target does not pack it, or not in this precision.

        Raises:
            UsageError: says in what it can be had.

        """
        if precision in self.writes:
            return
        if not self.writes:
            raise UsageError(
                f"{self.name} packages of models for {task} come later",
                where="--target",
                hint="--target cpu-int8 --quantize none",
            )
        raise UsageError(
            f"{self.name} packages models for {task} as {' or '.join(self.writes)}; {precision} comes later",
            where="--quantize",
            hint=f"--quantize {self.writes[0]}",
        )

    def limits(self, precision: str) -> Limits:
        """Return how far a package of this precision may be from its source."""
        return self.menu()[precision].limits

    def device_check(self, folder: Path, specs: "Mapping[str, GraphSpec]") -> DeviceCheck | None:
        """Run on the device that the package is for; None where that is this machine's CPU."""
        return None

    def own_checks(
        self, bundle: "Bundle", source: "TorchModel", reference: "Reference", runner: Runner, proof: "ProofContext"
    ) -> "tuple[list[Check], dict[str, Any]]":
        """Return what only this target's packages are tested for, and the facts found on the way.

        `source` and `reference` are as the package sees them (`as_seen_by`); those of `proof` are the whole ones.
        """
        return [], {}

    def accompany(
        self, bundle: "Bundle", golden: "Golden", runner: Runner, evaluation: "Evaluation", tolerance: float
    ) -> dict[str, Any]:
        """Write what is made from the golden vectors, such as samples; returns what the manifest keeps of it."""
        return {}

    def parameters(self, path: Path, *, vectors_only: bool = False) -> "Iterator[Stored]":
        """Yield the weights of one of its files brought back to float, for the comparison with the model's own.

        `vectors_only`: of matrices and tables, which are large, none is read.
        """
        return iter(())

    def models_beside(self, bundle: "Bundle") -> tuple[Path, ...]:
        """Return the files of the same model that a package ships for other clients."""
        return ()

    def product_weights(self, bundle: "Bundle") -> "Iterator[NDArray[Any]]":
        """Yield the weight matrices of the shipped file's products, as they are stored, one at a time."""
        return iter(())

    def usage(self, bundle: "Bundle") -> str:
        """Return the Markdown that shows how to call this package: its own file, lengths and outputs."""
        return ""
