"""One run of ai-edge-quantizer over a TFLite file."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import StageFailed
from converter.stage import Context, Outcome
from converter.tflite.derived import Derived
from converter.tflite.file import add_buffer, read_flat, scale_tensors, shape_of, share_names, text, write_flat
from converter.tflite.model import TfliteModel
from converter.tflite.quantize.sensitivity import block_scales, most_sensitive
from converter.tflite.quantize.smooth import Fitted, smooth
from converter.tflite.quantize.tables import packed_int4, quantize_tables
from converter.tflite.quantize.values import balance_values
from converter.tflite.quiet import quiet
from converter.tflite.versions import state_versions
from converter.tflite.writing.quantize import share_tied_tables

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Tensor

LARGEST_INT4 = 7
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
class WeightFit:
    """How weights are fitted to what they are multiplied with, before they are rounded."""

    texts: int
    smooth: float
    peak: float
    """Times the mean strength from which a channel is strong enough for an operation of its own."""
    block: int = 0
    """Inputs of an output that share a scale of 4 bits; 0: 8 bits, one scale an output."""
    kept: float = 0.0
    """Share of the weights that stay in 8 bits beside those in blocks."""


def requantize(
    given: TfliteModel,
    rules: list[Rule],
    precision: str,
    ctx: Context,
    ranges: Mapping[str, Any] | None = None,
    *,
    tables: int = 8,
    fit: WeightFit | None = None,
) -> Outcome[TfliteModel]:
    """Write the quantized file beside others in the scratch folder. `tables`: bits of embedding tables; 0: float.

    Raises:
        StageFailed: the quantizer refuses the file.

    """
    path = Path(mkdtemp(prefix=f"tflite-{precision}-", dir=ctx.work)) / "model.tflite"
    raw = path.with_name("quantized.tflite")
    fitted: dict[str, Fitted] = {}
    facts: dict[str, Any] = {}
    kept: list[str] = []
    if fit:
        fitted, facts, kept = _smoothed(given, fit, path, ctx)
    with ctx.progress.task(f"Quantizing the TFLite file ({precision})"), quiet():
        _quantize(path if fit else given.path, [*rules, *in_8_bits(kept)], precision, raw, ranges)
        model = read_flat(raw)
        _round(model, fitted)
        tied = share_tied_tables(model) if given.source.cache is not None else 0
        names = quantize_tables(model, tables) if tables else []
        share_names(model)
        state_versions(model)
        write_flat(model, path)
        raw.unlink()
    facts |= {"operations": sorted({r["operation"] for r in rules}), "tables": len(names)}
    facts |= {"tied_tables": tied} if tied else {}
    return Outcome(replace(given, path=path, precision=precision), facts)


def _smoothed(
    given: TfliteModel, fit: WeightFit, path: Path, ctx: Context
) -> tuple[dict[str, Fitted], dict[str, Any], list[str]]:
    """Write the float file with smoothed inputs; returns the weights to round, the facts, and what stays in 8 bits."""
    from converter.tflite.quantize.moments import input_moments

    seen = input_moments(given, ctx, fit.texts)
    facts: dict[str, Any] = {"fitted": len(seen), "texts": fit.texts}
    model = read_flat(given.path)
    derived = Derived(model)
    balanced = [balance_values(model, graph, seen, fit.smooth, derived) for graph in model.subgraphs]
    facts["balanced"] = balanced[0]
    fitted, facts["smoothed"] = smooth(model, seen, fit.smooth, fit.peak)
    write_flat(model, path)
    kept = most_sensitive(model, fitted, fit.kept, fit.block, LARGEST_INT4) if fit.block else []
    if kept:
        # A layer has a name in each signature; one of them tells which it is.
        facts["keptin_8_bits"] = sorted({name.partition("/")[2] for name in kept})
    return fitted, facts | {"builtin_text": ctx.calibration_is_builtin}, kept


def in_8_bits(names: Iterable[str]) -> list[Rule]:
    """Return the rules that keep the linear layers in 8 bits whose outputs have these names."""
    # The quantizer knows an operation by its outputs, each followed by a semicolon.
    whole = Scheme(8, integer=True)
    return [rule for name in names for rule in whole.rules(["FULLY_CONNECTED"], f"^{re.escape(name)};?$")]


def _round(model: "Model", fitted: Mapping[str, Fitted]) -> None:
    """Round weights so that what one rounding loses the next make good (`converter.onnx.quantize.rounding`)."""
    made: dict[tuple[int, int], _Rounded] = {}
    for graph in model.subgraphs:
        for tensor in list(graph.tensors):
            found = fitted.get(text(tensor.name))
            if found is None or tensor.quantization is None:
                continue
            blocks = scale_tensors(tensor)
            key = id(found), len(blocks)
            if key not in made:
                made[key] = _in_blocks(model, graph, tensor, found) if blocks else _in_rows(model, found)
            tensor.buffer = made[key].values
            if blocks:
                graph.tensors[blocks[0]].buffer = made[key].steps
            else:
                tensor.quantization.scale = made[key].scales


@dataclass(frozen=True)
class _Rounded:
    """A weight's buffer, and its scales: a buffer too, or a list in the tensor itself."""

    values: int
    steps: int = 0
    scales: Any = None


def _in_rows(model: "Model", found: Fitted) -> _Rounded:
    from converter.onnx.quantize.rounding import round_by_moments

    rounded = round_by_moments(np.ascontiguousarray(found.weights.T), found.moments, bounded=False)
    held = add_buffer(model, np.ascontiguousarray(rounded.values.T))
    return _Rounded(held, scales=rounded.scales.reshape(-1).astype(np.float32))


def _in_blocks(model: "Model", graph: "Graph", tensor: "Tensor", found: Fitted) -> _Rounded:
    from converter.onnx.quantize.rounding import round_blocks_by_moments

    given = graph.tensors[scale_tensors(tensor)[0]]
    steps = block_scales(found, found.weights.shape[1] // shape_of(given)[1], LARGEST_INT4)
    weights = np.ascontiguousarray(found.weights.T)
    values = round_blocks_by_moments(weights, found.moments, np.ascontiguousarray(steps.T), LARGEST_INT4)
    return _Rounded(add_buffer(model, packed_int4(values.T)), add_buffer(model, steps.astype(np.float16)))


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
