"""One run of ai-edge-quantizer over a TFLite file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from converter.errors import StageFailed
from converter.lowering.flat import add_buffer, read_flat, share_names, text, write_flat
from converter.lowering.model import TfliteModel
from converter.lowering.quiet import quiet
from converter.lowering.smooth import Fitted, smooth
from converter.lowering.tables import quantize_tables
from converter.lowering.versions import state_versions
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
    granularity: str = "CHANNELWISE"

    def rules(self, operations: Iterable[str], scope: str = ".*") -> list[Rule]:
        """Return one rule per kind of operation, for those whose output names match `scope`."""
        weight = {"num_bits": self.weight_bits, "symmetric": True, "granularity": self.granularity, "dtype": self.dtype}
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


@dataclass(frozen=True)
class Fit:
    """How weights are fitted to what they are multiplied with, before they are rounded."""

    texts: int
    smooth: float
    rounds: bool = True
    """Round to int8 ourselves; False: as the quantizer does."""


def requantize(
    given: TfliteModel,
    rules: list[Rule],
    precision: str,
    ctx: Context,
    ranges: Mapping[str, Any] | None = None,
    *,
    tables: bool = True,
    fit: Fit | None = None,
) -> Outcome[TfliteModel]:
    """Write the quantized file beside others in the scratch folder. `tables`: embedding tables in int8 too.

    Raises:
        StageFailed: the quantizer refuses the file.

    """
    path = Path(mkdtemp(prefix=f"tflite-{precision}-", dir=ctx.work)) / "model.tflite"
    raw = path.with_name("quantized.tflite")
    fitted, facts = _smoothed(given, fit, path, ctx) if fit else ({}, {})
    with ctx.progress.task(f"Quantizing the TFLite file ({precision})"), quiet():
        _quantize(path if fit else given.path, rules, precision, raw, ranges)
        model = read_flat(raw)
        _round(model, fitted)
        names = quantize_tables(model) if tables else []
        share_names(model)
        state_versions(model)
        write_flat(model, path)
        raw.unlink()
    facts |= {"operations": sorted({r["operation"] for r in rules}), "tables": len(names)}
    return Outcome(replace(given, path=path, precision=precision), facts)


def _smoothed(given: TfliteModel, fit: Fit, path: Path, ctx: Context) -> tuple[dict[str, Fitted], dict[str, Any]]:
    """Write the float file with smoothed inputs; returns the weights to round, and the facts."""
    from converter.lowering.moments import input_moments

    seen = input_moments(given, ctx, fit.texts)
    model = read_flat(given.path)
    fitted, smoothed = smooth(model, seen, fit.smooth)
    write_flat(model, path)
    facts = {"fitted": len(seen), "smoothed": smoothed, "texts": fit.texts, "builtin_text": ctx.calibration_is_builtin}
    return fitted if fit.rounds else {}, facts


def _round(model: Any, fitted: Mapping[str, Fitted]) -> None:
    """Round weights so that what one rounding loses the next make good (`converter.quantize._rounding`)."""
    from converter.quantize._rounding import round_by_moments

    made: dict[int, tuple[int, Any]] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            found = fitted.get(text(tensor.name))
            if found is None or tensor.quantization is None:
                continue
            if id(found) not in made:
                rounded = round_by_moments(np.ascontiguousarray(found.weights.T), found.moments, bounded=False)
                buffer = add_buffer(model, np.ascontiguousarray(rounded.values.T))
                made[id(found)] = buffer, rounded.scales.reshape(-1).astype(np.float32)
            tensor.buffer, tensor.quantization.scale = made[id(found)]


def _quantize(given: Path, rules: list[Rule], precision: str, path: Path, ranges: Mapping[str, Any] | None) -> None:
    from ai_edge_quantizer.quantizer import Quantizer

    class Trusting(Quantizer):
        """Takes ranges as complete, which they are: the usual check unpacks the float weights once a signature."""

        def _ensure_model_qsv_sufficient(self, calibration_result: Any) -> None:
            """Check nothing."""

    try:
        quantizer = Trusting(str(given), rules)
        quantizer.quantize(
            dict(ranges) if ranges is not None else None,
            serialize_to_path=str(path),
            enable_progress_bar=False,
            enable_progress_report=False,
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise StageFailed(f"ai-edge-quantizer refuses the file ({error})", where=f"{precision} TFLite") from error
