"""A TFLite file of a model that writes text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.graphs import Run
from converter.tflite.model import TfliteModel
from converter.tflite.writing.layout import Layout

if TYPE_CHECKING:
    from converter.tflite.writing.runner import WriterRunner


@dataclass(frozen=True)
class TfliteWriter(TfliteModel):
    """A file on disk with signatures `prefill_N` or `encode_N`, and `decode`, over one set of weights.

    `lengths` are those of the signatures that read several tokens; `output_names` is `("logits",)`.
    """

    layout: Layout = Layout(causal=True, cache=0, lengths=(), layers=0)  # noqa: RUF009 - it is frozen

    def open_writer(self, *, xnnpack: bool = False) -> "WriterRunner":
        """Open the file, by default in the least memory; what ships is measured through its target."""
        from converter.tflite.writing.runner import WriterRunner

        return WriterRunner(self.path, self.source.specs, xnnpack=xnnpack)

    def runs(self) -> Run:
        return self.open_writer().run

    def verify(self) -> None:
        """Hold the file to its layout; opening it compares every signature with what the model declares."""
        from converter.errors import StageFailed

        found = self.open_writer().layout
        if found != self.layout:
            raise StageFailed(f"the TFLite file is laid out as {found}, wanted {self.layout}")
