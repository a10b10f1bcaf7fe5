"""One run of ai-edge-quantizer over a TFLite file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from converter.errors import StageFailed
from converter.lowering.flat import read_flat, share_names, write_flat
from converter.lowering.model import TfliteModel
from converter.lowering.quiet import quiet
from converter.lowering.tables import quantize_tables
from converter.stage import Context, Outcome

Rule = Mapping[str, Any]
"""One entry of an ai-edge-quantizer recipe."""


@dataclass(frozen=True)
class Scheme:
    """What is done to which operations."""

    weight_bits: int
    integer: bool
    """Compute in integers; False: weights are stored small and widened before use."""
    activation_bits: int | None = None
    """None: activations stay float in the file."""
    algorithm: str = "min_max_uniform_quantize"
    dtype: str = "INT"

    def rules(self, operations: Iterable[str], scope: str = ".*") -> list[Rule]:
        """Return one rule per kind of operation, for those whose output names match `scope`."""
        weight = {"num_bits": self.weight_bits, "symmetric": True, "granularity": "CHANNELWISE", "dtype": self.dtype}
        config: dict[str, Any] = {
            "weight_tensor_config": weight,
            "compute_precision": "INTEGER" if self.integer else "FLOAT",
            "explicit_dequantize": not self.integer,
        }
        if self.activation_bits is not None:
            config["activation_tensor_config"] = {
                "num_bits": self.activation_bits,
                # LiteRT's int16 kernels are symmetric, its int8 ones are not.
                "symmetric": self.activation_bits == 16,
                "granularity": "TENSORWISE",
                "dtype": "INT",
            }
        return [
            {"regex": scope, "operation": name, "algorithm_key": self.algorithm, "op_config": config}
            for name in operations
        ]


def requantize(
    given: TfliteModel,
    rules: list[Rule],
    precision: str,
    ctx: Context,
    ranges: Mapping[str, Any] | None = None,
    *,
    tables: bool = True,
) -> Outcome[TfliteModel]:
    """Write the quantized file beside others in the scratch folder. `tables`: embedding tables in int8 too.

    Raises:
        StageFailed: the quantizer refuses the file.

    """
    path = Path(mkdtemp(prefix=f"tflite-{precision}-", dir=ctx.work)) / "model.tflite"
    raw = path.with_name("quantized.tflite")
    with ctx.progress.task(f"Quantizing the TFLite file ({precision})"), quiet():
        _quantize(given, rules, precision, raw, ranges)
        model = read_flat(raw)
        names = quantize_tables(model) if tables else []
        share_names(model)
        write_flat(model, path)
        raw.unlink()
    facts = {"operations": sorted({r["operation"] for r in rules}), "tables": len(names)}
    return Outcome(replace(given, path=path, precision=precision), facts)


def _quantize(
    given: TfliteModel, rules: list[Rule], precision: str, path: Path, ranges: Mapping[str, Any] | None
) -> None:
    from ai_edge_quantizer.quantizer import Quantizer

    class Trusting(Quantizer):
        """Takes ranges as complete, which they are: the usual check unpacks the float weights once a signature."""

        def _ensure_model_qsv_sufficient(self, calibration_result: Any) -> None:
            """Check nothing."""

    try:
        quantizer = Trusting(str(given.path), rules)
        quantizer.quantize(
            dict(ranges) if ranges is not None else None,
            serialize_to_path=str(path),
            enable_progress_bar=False,
            enable_progress_report=False,
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise StageFailed(f"ai-edge-quantizer refuses the file ({error})", where=f"{precision} TFLite") from error
