"""From the source to the shipped file, boundary by boundary: the first that broke, then the layer."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.artifact import Artifact, TorchModel
from converter.errors import ExportError
from converter.explain.layers import Feed, Inside, LayerError, first_change, first_departure, layer_errors, layer_of
from converter.explain.steps import (
    EXPORT,
    QUANTIZE,
    REWRITE,
    Step,
    inside_of,
    inside_package,
    onnx_inside,
    rewrites_of,
    run_of,
    run_steps,
)
from converter.explain.words import label_fault, tokenizer_fault
from converter.graphs import MODEL, Run
from converter.onnx.export import ExportOnnx
from converter.precision import Limits
from converter.reference import Reference, feed_of, run_probe
from converter.scoring.relative_error import relative_error
from converter.validate.answers import RunFailed
from converter.validate.compare import compare_answers
from converter.validate.weights import wrong_layers

if TYPE_CHECKING:
    from converter.recipe import ChosenPrecision
    from converter.stage import Context, Progress
    from converter.target import Target
    from converter.validate.checks import Evaluation

TOKENIZER, LABELS, COMPRESS, PACKING = "tokenizer", "labels", "compress", "packing"
ORDER = (TOKENIZER, LABELS, COMPRESS, EXPORT, REWRITE, QUANTIZE, PACKING)
LOSSLESS = 1e-3
"""The largest error, over the output range, of a step that should change nothing."""
SAME = 5e-3
"""The same of the shipped file against what the last step made: kernels pad to other lengths."""
TEXTS_INSIDE = 3
"""Texts whose inner values are compared: those with the largest errors."""


@dataclass(frozen=True)
class Boundary:
    """One boundary: how far the model is from the source behind it."""

    name: str
    step: str
    broken: bool
    agreement: float | None = None
    max_error: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Explanation:
    """The first boundary that broke and the layer; both empty where none did."""

    boundary: str = ""
    layer: str = ""
    detail: str = ""
    boundaries: tuple[Boundary, ...] = ()
    repair: str = ""
    """The precision, as typed behind `--quantize`, that was tried and repairs it; empty where none does."""
    next_repairs: tuple[str, ...] = ()
    """What else may: for a package of `repair` that fails its gate, which looks at more than these texts."""
    facts: dict[str, Any] = field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Walk:
    """All that the boundaries are compared with."""

    folder: Path
    manifest: Mapping[str, Any]
    target: "Target"
    precision: "ChosenPrecision"
    limits: Limits
    source: TorchModel
    compressed: TorchModel
    shown: TorchModel
    """The source in the terms of the compressed model; see `as_seen_by`."""
    reference: Reference
    ctx: "Context"

    @property
    def progress(self) -> "Progress":
        return self.ctx.progress

    def explain(self) -> Explanation:
        """Walk until a boundary is broken; `repair` is looked for elsewhere.

        Compression that costs more than the limits allow is named where nothing behind it is broken besides: exits may
        cost what was asked for, and a layer that is wrong in the file is still to be found.
        """
        seen: list[Boundary] = []
        costly = Explanation()
        for found, layer in self._boundaries():
            seen.append(found)
            if found.broken:
                costly = Explanation(found.name, layer, found.detail)
                if found.name != COMPRESS or not self._adds_to_it():
                    break
        return replace(costly, boundaries=tuple(seen))

    def _boundaries(self) -> "Iterator[tuple[Boundary, str]]":
        for name, (fault, where) in (
            (TOKENIZER, tokenizer_fault(self.folder, self.manifest, self.shown, self.reference.probes)),
            (LABELS, label_fault(self.folder, self.manifest, self.source)),
        ):
            yield Boundary(name, name, bool(fault), detail=fault), where
        if self.compressed is not self.source:
            yield self._compress()
        last: Artifact = self.compressed
        stages = self.target.stages(self.precision.name, self.precision.options, self.compressed)
        for step in run_steps(stages, self.compressed, self.ctx):
            if step.made is None:
                yield self._failed(step, last)
                return
            yield self._step(step, last)
            last = step.made
        yield self._packing(last)

    def _adds_to_it(self) -> bool:
        """Tell whether the shipped file is further from the source than the compressed model is."""
        try:
            _, made = self._shipped
        except ExportError:
            return True
        return not made.errors or float(np.mean(made.errors)) > float(np.mean(self._cost.errors or 0.0))

    @cached_property
    def _cost(self) -> "Evaluation":
        """What compression costs: the error that every later step begins with."""
        return self._compare(run_of(self.compressed), COMPRESS)

    @cached_property
    def _shipped(self) -> "tuple[Run, Evaluation]":
        """The shipped file, and what it answers beside the source.

        Raises:
            ExportError: it cannot be opened.

        """
        run = self.target.open(self.folder, self.compressed.specs).run
        return run, self._compare(run, "package")

    @property
    def _costs_too_much(self) -> bool:
        return self._cost.agreement < (self.limits.agreement or 0.9)

    def _compress(self) -> tuple[Boundary, str]:
        made, broken = self._cost, self._costs_too_much
        layer = self._layer(self.source, self.compressed, made) if broken else ""
        return _boundary(COMPRESS, "compression", made, broken=broken), layer

    def _step(self, step: Step, before: Artifact) -> tuple[Boundary, str]:
        """Judge a step by what it may do: an export changes nothing, quantization keeps to the target's limits."""
        assert step.made is not None
        made = self._compare(run_of(step.made), step.name)
        lossless = step.boundary == EXPORT
        broken = not _worst(made) <= self._allowed(before) if lossless else self._beyond_limits(made)
        layer = (
            self._wrong_weights(step, before) or self._layer(self.compressed, step.made, made, before) if broken else ""
        )
        return _boundary(step.boundary, step.name, made, broken=broken), layer

    def _wrong_weights(self, step: Step, before: Artifact) -> str:
        """Return the layer whose weights a quantizer did not keep: smoothing hides in its values where they changed."""
        if step.boundary != QUANTIZE or step.made is None or not self.reference.probes:
            return ""
        now = self._wrong(step.made) if step.made.weight_files else []
        was = self._wrong(before) if now and before.weight_files else []
        return next((name for name in now if name not in was), "")

    def _wrong(self, made: Artifact) -> list[str]:
        stored = chain.from_iterable(map(self.target.parameters, made.weight_files))
        return wrong_layers(self.compressed, stored, self.reference.probes[0])

    def _allowed(self, before: Artifact) -> float:
        """Return the error of a lossless step: it is measured against the source, which compression has left."""
        if before is self.source:
            return LOSSLESS
        return _worst(self._compare(run_of(before), "before")) + LOSSLESS

    def _beyond_limits(self, made: "Evaluation") -> bool:
        limits, error = self.limits, _worst(made)
        least, most = limits.agreement, limits.max_error
        if self.compressed is not self.source and self._costs_too_much:  # a step is to blame for what it adds alone
            cost = self._cost
            least = None if least is None else least - 1.0 + cost.agreement
            most = None if most is None else most + _worst(cost)
        low = least is not None and made.agreement < least
        return low or (most is not None and not error <= most) or not np.isfinite(error)

    def _failed(self, step: Step, before: Artifact) -> tuple[Boundary, str]:
        """Find, of an export that refused its own file, the rewrite after which the graph answers otherwise."""
        broken = Boundary(step.boundary, step.name, True, detail=step.failed)
        if step.name != ExportOnnx.name or not isinstance(before, TorchModel):
            return broken, ""
        from converter.onnx.runner import OnnxRunner

        allowed = self._allowed(before)
        for name, path in rewrites_of(before, self.ctx.work):
            made = self._compare(OnnxRunner({MODEL: path}).run, name or "export")
            if not _worst(made) <= allowed:
                layer = self._located(before, partial(onnx_inside, path), made)
                found = _boundary(REWRITE if name else EXPORT, name or step.name, made, broken=True)
                return replace(found, detail=f"{found.detail}; {step.failed}"), layer
        return broken, ""

    def _packing(self, last: Artifact) -> tuple[Boundary, str]:
        """Compare the shipped file with what the last step made anew."""
        try:
            run, made = self._shipped
            apart = self._apart(run, run_of(last))
        except ExportError as error:
            return Boundary(PACKING, "package", True, detail=str(error)), ""
        differs = not apart <= SAME
        return _boundary(PACKING, "package", made, broken=differs), self._changed(last, made) if differs else ""

    def _apart(self, one: Run, other: Run) -> float:
        """Return how far two runs' answers are apart, over the output range; infinite where one does not run."""
        worst = 0.0
        for probe in self.reference.probes:
            try:
                made = [run_probe(self.shown, probe, run).outputs for run in (one, other)]
            except Exception:  # noqa: BLE001 - each runtime has its own classes of error
                return float("inf")
            for name, scale in self.reference.output_range.items():
                error = relative_error(made[0][name], made[1][name], scale) if name in made[0] else 0.0
                worst = max(worst, error) if np.isfinite(error) else float("inf")
        return worst

    def _changed(self, last: Artifact, made: "Evaluation") -> str:
        """Return the layer of the first value that the shipped file makes otherwise than what was made anew."""
        file = next(iter(self.manifest["graphs"].values()))["file"]
        good, shipped = inside_of(last), inside_package(self.folder, file, self.compressed)
        for feed in self._feeds(made):
            wanted, found = good(feed), shipped(feed)
            changed = first_change(wanted, found)
            if changed is None:
                continue
            errors = layer_errors(inside_of(self.compressed)(feed), wanted)
            if len(found.keys() & wanted.keys()) > len(wanted) // 2:
                return layer_of(changed, list(wanted), errors)
            departed = first_departure(layer_errors(inside_of(self.compressed)(feed), found), errors)
            return departed.layer if departed else ""
        return ""

    def _layer(self, good: TorchModel, made: Artifact, answers: "Evaluation", before: Artifact | None = None) -> str:
        return self._located(good, inside_of(made), answers, before)

    def _located(self, good: TorchModel, inside: Inside, answers: "Evaluation", before: Artifact | None = None) -> str:
        """Return the layer at which a graph departs from the model it is of, over the texts with the largest errors."""
        rows = list(self._departures(good, inside, answers, before))
        if not rows:
            return ""
        errors = [
            replace(r[0], error=float(np.mean([e.error for e in r]))) for r in zip(*(a for a, _ in rows), strict=True)
        ]
        seen = rows[0][1]
        found = first_departure(errors, seen)
        return found.layer if found else ""

    def _departures(
        self, good: TorchModel, inside: Inside, answers: "Evaluation", before: Artifact | None
    ) -> "Iterator[tuple[list[LayerError], list[LayerError] | None]]":
        for feed in self._feeds(answers):
            wanted = inside_of(good)(feed)
            plain = before is not None and not isinstance(before, TorchModel)
            seen = layer_errors(wanted, inside_of(before)(feed)) if plain and before is not None else None
            yield layer_errors(wanted, inside(feed)), seen

    def _feeds(self, answers: "Evaluation") -> list[Feed]:
        """Return the texts with the largest errors, each alone."""
        rows = sorted(range(len(answers.errors)), key=lambda i: -answers.errors[i])[:TEXTS_INSIDE]
        return [feed_of(self.shown, [self.reference.judged[i].encoding]) for i in rows]

    def _compare(self, run: Run, title: str) -> "Evaluation":
        try:
            return compare_answers(self.shown, self.reference, run, Limits(), self.progress, title).evaluation
        except RunFailed as error:
            from converter.validate.package_check import unjudged

            return replace(unjudged([], self.reference, {"failed": str(error)}), agreement=0.0)


def _worst(made: "Evaluation") -> float:
    return max((d.max_error for d in made.deviations), default=float("inf"))


def _boundary(name: str, step: str, made: "Evaluation", *, broken: bool) -> Boundary:
    error = _worst(made)
    said = f"agreement {made.agreement:.4f}, worst error {error:.3g} of the output range, on {made.n_probes} texts"
    return Boundary(name, step, broken, made.agreement, error, made.facts.get("failed", said))
