"""What the two precisions in blocks share: weights of a model that writes text in few bits, activations in 8."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from converter.binding import option
from converter.onnx.model import OnnxModel
from converter.precision import Quantizer
from converter.stage import Context, Outcome

TEXTS = 48
"""Calibration texts that weights are fitted to, where nothing else is said."""


@dataclass(frozen=True)
class BlockQuantizer(Quantizer[OnnxModel]):
    """Weights in blocks of inputs with a scale each, output layer and embedding table included (`MatMulNBits`)."""

    block: Literal[16, 32, 64, 128, 256] = option(128, "weights per scale (block size): 16, 32, 64, 128 or 256")

    def quantize(
        self, given: OnnxModel, ctx: Context, rules: Any, texts: int, size_mb: float | None
    ) -> Outcome[OnnxModel]:
        """Round the weights of all graphs by `rules`, and write them."""
        from converter.onnx.quantize.block_fit import facts_of, fit_graph, raise_to_size
        from converter.onnx.quantize.folder import quantizer_folder
        from converter.onnx.quantize.written import written_texts

        written = written_texts(given, ctx, texts) if rules.method != "rtn" and ctx.calibration else []
        with quantizer_folder(self, ctx) as folder:
            graphs = {graph: fit_graph(given, graph, rules, written, folder, ctx) for graph in given.files}
            raised = [] if size_mb is None else raise_to_size(graphs, given, size_mb * 1e6)
            facts = facts_of(graphs) | {"texts": len(written), "raised_to_8_bits": raised}
            files = {}
            for graph in given.files:
                files[graph] = folder / f"{graph}.onnx"
                graphs.pop(graph).write(files[graph])
        return Outcome(replace(given, files=files, precision=self.precision.name), facts)
