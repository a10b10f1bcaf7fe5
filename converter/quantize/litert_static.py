"""Static int8 for TFLite: activation ranges are measured on real text beforehand and stand in the file."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from converter.binding import option
from converter.errors import DataError
from converter.precision import Limits, Precision, Quantizer
from converter.stage import Context, Outcome
from converter.tflite.model import TfliteModel
from converter.tflite.quantize.requantize import Rule, Scheme, requantize

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.tflite.quantize.ranges import Activation, LinearLayer

ROOM = 4.0
"""Times the range that was measured, in 16 bits: their steps are so fine that what no text showed may have room too."""


@dataclass(frozen=True)
class LitertStaticInt8(Quantizer[TfliteModel]):
    """Linear layers in int8 with fixed ranges; attention, normalization and GELU stay in float.

    A layer whose input or output has outliers too large for 8 bits over the whole range (the feed-forward outputs of
    BERT: Bondarenko et al., arXiv 2109.12948) is quantized dynamically instead, with one scale per token. Ranges are
    calibrated on text without padding.
    """

    texts: int = option(16, "calibration texts per sequence length for the activation ranges", low=1)
    min_snr: float = option(
        28.0,
        "layers whose signal-to-noise ratio in int8 is below this (in dB) use dynamic quantization instead",
        low=0.0,
    )

    activation_bits: Literal[8, 16] = option(
        8, "8, or 16 for accelerators with int16 activations; with 16, no layer needs dynamic quantization"
    )

    target = "tflite"
    precision = Precision("static", Limits(agreement=0.97, stability=0.99, max_drop=0.02))
    gentler = ("static:min_snr=34", "static:min_snr=45", "dynamic", "weights")
    summary = "int8 weights and activations, ranges fixed by calibration"
    needs_text = True

    def check(self, source: "TorchModel", *, has_text: bool) -> None:
        if not has_text:
            raise DataError(
                "static quantization needs calibration text like the text of your app",
                where="quantize.tflite static",
                hint="give --calibration FILE, or use the default, which needs none: --quantize tflite=dynamic",
            )

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        from converter.tflite.quantize.ranges import measure

        self.check(given.source, has_text=not ctx.calibration_is_builtin)
        layers, measured = measure(given, ctx, self.texts)
        seen = _alike(measured)
        noisy = [
            x
            for x in layers
            if self.activation_bits == 8 and min(seen[x.given_name].snr, seen[x.made_name].snr) < self.min_snr
        ]
        made = requantize(
            given, _rules(noisy, self.activation_bits), "static", ctx, _ranges(seen, self.activation_bits)
        )
        facts = made.facts | {
            "layers": len(layers) // len(given.lengths),
            "kept_dynamic": len(noisy) // len(given.lengths),
            "dynamic_layers": sorted({_at_any_length(x.made_name) for x in noisy}),
            "texts_a_length": self.texts,
        }
        return Outcome(made.made, facts)


def _at_any_length(name: str) -> str:
    """Return a tensor's name without its signature."""
    return name.partition("/")[2] or name


def _alike(measured: "dict[str, Activation]") -> "dict[str, Activation]":
    """Return one account for what is the same tensor in several signatures."""
    from converter.tflite.quantize.ranges import Activation

    together: dict[str, list[Activation]] = {}
    for name, found in measured.items():
        together.setdefault(_at_any_length(name), []).append(found)
    made = {
        name: Activation(
            min(a.low for a in found),
            max(a.high for a in found),
            sum(a.total for a in found),
            sum(a.count for a in found),
        )
        for name, found in together.items()
    }
    return {name: made[_at_any_length(name)] for name in measured}


def _rules(noisy: "list[LinearLayer]", bits: int) -> list[Rule]:
    dynamic = Scheme(8, integer=True)
    rules = Scheme(8, integer=True, activation_bits=bits).rules(["FULLY_CONNECTED"])
    for name in dict.fromkeys(x.made_name for x in noisy):
        # The quantizer knows an operation by its outputs, each followed by a semicolon.
        rules += dynamic.rules(["FULLY_CONNECTED"], f"^{re.escape(name)};?$")
    return rules


def _ranges(seen: "dict[str, Activation]", bits: int) -> dict[str, Any]:
    room = ROOM if bits == 16 else 1.0
    return {
        name: {"min": np.full((1, 1), room * a.low, np.float32), "max": np.full((1, 1), room * a.high, np.float32)}
        for name, a in seen.items()
    }
