"""Half precision: weights and arithmetic in float16, integer inputs and float32 outputs."""

from dataclasses import dataclass, replace

from converter.artifact import OnnxModel
from converter.errors import StageFailed
from converter.stage import Context, Outcome, Stage

MAX_CONSTANT = 1e4
"""Attention masks are -3.4e38 in float32, infinite in float16; at -1e4 the softmax is as surely zero."""
MIN_CONSTANT = 1e-7
TRIED = 8


@dataclass(frozen=True)
class Fp16(Stage[OnnxModel, OnnxModel]):
    """ONNX Runtime's float16 conversion, mask constants made finite, outputs cast back to float32."""

    summary = "fp16 inside, float32 outputs"

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        import onnx
        import onnx_ir as ir
        from onnxruntime.transformers.float16 import convert_float_to_float16

        from converter.graph.clean import clean_graph
        from converter.graph.write import write_onnx
        from converter.quantize._prepare import quiet_quantizer

        path = ctx.work / "fp16" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        with ctx.progress.task("Converting to fp16"), quiet_quantizer():
            proto = convert_float_to_float16(
                onnx.load(given.path),
                keep_io_types=True,
                min_positive_val=MIN_CONSTANT,
                max_finite_val=MAX_CONSTANT,
            )
            model = ir.from_proto(proto)
            del proto
            clean_graph(model)
            write_onnx(model, path)
        made = replace(given, path=path, precision="fp16")
        return Outcome(made, {"texts": _check_finite(made, ctx)})


def _check_finite(made: OnnxModel, ctx: Context) -> int:
    """Run a few texts, since one value beyond 65504 makes an answer NaN; returns how many."""
    import numpy as np

    from converter.examples import pad_batch
    from converter.onnx_runner import OnnxRunner

    runner, source = OnnxRunner(made.path), made.source
    encodings = [source.task.encode(source.tokenizer, e, source.max_length) for e in ctx.calibration[:TRIED]]
    for encoding in encodings:
        # Padding is where a mask that is infinite in float16 shows.
        length = min(encoding.length + 3, source.max_length)
        outputs = runner.run(pad_batch([encoding], source.pad, length))
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise StageFailed(
                    f"{name} is not finite in float16: the model's activations exceed its range",
                    where=source.provenance.id,
                    hint="export this model with precision none, or as int8",
                )
    return len(encodings)
