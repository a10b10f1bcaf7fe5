"""A TFLite file: one signature per length, all over the same weights."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from converter.artifact import Artifact, TorchModel, files_digest
from converter.errors import StageFailed, UsageError
from converter.graphs import MODEL

if TYPE_CHECKING:
    from converter.tflite.runner import TfliteRunner

DEFAULT_LENGTHS = (16, 32, 64, 128)
"""Of signatures that have a graph each."""
FINE_LENGTHS = (8, 10, 12, 15, 16, 20, 24, 25, 28, 30, 32, 35, 40, 45, 50, 56, 64, 80, 96, 112, 128)
"""Of signatures over one graph, where another costs half a kilobyte and saves padding: multiples of the rows that int8
kernels take at a time, 4 on ARM and 5 on x86 with VNNI."""
SHORTEST = 4
"""Two special tokens, and three between a pair, fill anything shorter: a tokenizer then cuts nothing at all."""
SIGNATURE = "serving_"
"""A signature is named after its length: `serving_16`."""
BATCH = "_batch_"
"""Behind a length, the texts that a signature takes at once where that is not one: `serving_16_batch_8`."""
ANY_SIGNATURE = "serving_up_to_"
"""The one signature of a file that takes any length, up to the one that its name ends with."""


@dataclass(frozen=True)
class TfliteModel(Artifact):
    """A TFLite file on disk: int32 inputs `[1, length]`, float32 outputs, one signature per length."""

    path: Path
    source: TorchModel
    """The (compressed) model it was lowered from."""
    lengths: tuple[int, ...]
    """Ascending."""
    output_names: tuple[str, ...]
    precision: str = "float32"

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def digest(self) -> str:
        return files_digest({self.path.name: self.path})

    @property
    def file_precision(self) -> str:
        return self.precision

    @property
    def weight_files(self) -> tuple[Path, ...]:
        return (self.path,)

    def open(self) -> "TfliteRunner":
        """Open the file in the least memory; what ships is measured through its target, on the kernels of its users."""
        from converter.tflite.runner import TfliteRunner

        return TfliteRunner(self.path, self.source.specs, xnnpack=False)

    def verify(self) -> None:
        runner = self.open()
        if runner.lengths != self.lengths:
            raise StageFailed(f"the TFLite file has signatures for {runner.lengths}, wanted {self.lengths}")
        graph = runner.graphs[MODEL]
        inputs = tuple(spec.name for spec in graph.inputs)
        if inputs != self.source.specs[MODEL].input_names:
            raise StageFailed(f"TFLite inputs are {inputs}, wanted {self.source.specs[MODEL].input_names}")
        outputs = {spec.name for spec in graph.outputs}
        if outputs != set(self.output_names):
            raise StageFailed(f"TFLite outputs are {sorted(outputs)}, wanted {sorted(self.output_names)}")
        for specs, wanted in ((graph.inputs, "int32"), (graph.outputs, "float32")):
            for spec in specs:
                if spec.dtype != wanted:
                    raise StageFailed(f"{spec.name} is {spec.dtype} in the TFLite file, wanted {wanted}")


def signature_lengths(
    wanted: tuple[int, ...], longest: int, defaults: tuple[int, ...] = DEFAULT_LENGTHS
) -> tuple[int, ...]:
    """Return the lengths to make, ascending: those wanted, or `defaults` up to the model's maximum.

    Raises:
        UsageError: a wanted length exceeds what the model takes, or holds no text.

    """
    for length in wanted:
        if length < SHORTEST:
            raise UsageError(
                f"a length of {length} tokens leaves no room for text",
                where="--seq-len",
                hint=f"the shortest is {SHORTEST}; texts are truncated to the longest sequence length",
            )
        if length > longest:
            raise UsageError(
                f"a length of {length} tokens exceeds the model's {longest}",
                where="--seq-len",
                hint=f"the longest that this model takes is {longest}",
            )
    if wanted:
        return tuple(sorted(set(wanted)))
    fitting = [n for n in defaults if n <= longest]
    return tuple(sorted({*fitting, min(longest, defaults[-1])}))


def lengths_of(names: list[str]) -> tuple[tuple[int, ...], int | None]:
    """Return the fixed lengths that signatures are named after, ascending, and the longest of one that takes any."""
    up_to = [n.removeprefix(ANY_SIGNATURE) for n in names if n.startswith(ANY_SIGNATURE)]
    fixed = sorted(int(n.removeprefix(SIGNATURE)) for n in names if n.removeprefix(SIGNATURE).isdigit())
    return tuple(fixed), int(up_to[0]) if up_to and up_to[0].isdigit() else None


def mobile_outputs(model: TorchModel) -> tuple[str, ...]:
    """Return what the file gives: the task's outputs, or the embedding alone where the model has a sentence head."""
    return model.specs[MODEL].output_names if model.head is None else ("sentence_embedding",)
