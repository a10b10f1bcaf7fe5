"""Unstructured pruning: single weights, or small blocks of them, to zero."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from converter.artifact import TorchModel
from converter.binding import option
from converter.errors import RecipeError, SourceError
from converter.prune._pattern import Pattern, parse_pattern
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    import torch

    from converter.examples import Encoding
    from converter.forecast import Forecast

NAME = "prune.threshold"
SPARSITY = 0.5
"""Share of the weights that go, where neither the recipe nor a pattern says."""
FITTED_STEPS = 8


@dataclass(frozen=True)
class ThresholdPruning(Stage[TorchModel, TorchModel]):
    """Set the weights of the encoder's linear layers that matter least to zero; embeddings, biases and heads stay.

    `magnitude` ranks by |w| (Han et al. 2015, arXiv 1506.02626), `wanda` by |w| x the size of its input on real text
    (2306.11695), `obs` by the error of the layer's output after the rest of the row has compensated for it (Hassibi
    and Stork 1993; SparseGPT, 2301.00774). `reconstruct` refits the kept weights by least squares, layer after
    layer, to the activations of the unpruned model; `obs` always does. The schedule is that of Zhu and Gupta
    2017 (1710.01878): after each step weights are ranked again, and refitted or their inputs measured again. Magnitudes
    that are not refitted do not change, so one step is enough for them. Quantization and distillation keep zeros.

    As a recipe: `compress = [{stage = "prune.threshold", score = "obs", sparsity = 0.5}]`
    """

    sparsity: float | None = option(
        None, "share of the weights to set to zero; 0.5 unless an N:M pattern decides", low=0.01, high=0.99
    )
    scope: Literal["global", "layer", "row"] = option(
        "layer", "rank weights over the whole model, within each matrix, or within each of its rows"
    )
    score: Literal["magnitude", "wanda", "obs"] = option(
        "magnitude", "rank by |w| (magnitude), |w| x input norm (wanda), or error of the layer's output (obs)"
    )
    pattern: str = option("", "2:4 keeps 2 of 4 neighbouring inputs; 1x4 removes blocks of 1 output by 4 inputs")
    reconstruct: bool = option(False, "refit the kept weights by least squares (score=obs always does)")
    steps: int | None = option(None, "number of pruning steps; none: 8 if weights are refitted, else 1", low=1, high=64)
    schedule: Literal["cubic", "linear"] = option("cubic", "how sparsity grows over the steps")
    texts: int = option(512, "calibration texts to measure inputs on and to fit weights to", low=1)

    summary = "set the least important weights to zero (unstructured, N:M or block sparsity)"
    why_not = "zeros make no runtime faster, and of a model that writes text nothing is timed by layers"
    leaves_on_disk = True
    # They fit or merge what is left: zeros would be filled.
    bars = ("prune.structured", "prune.mixed", "distill.gradual", "factorize.linears", "share.layers")

    def __post_init__(self) -> None:
        groups = parse_pattern(self.pattern, f"{NAME}.pattern")
        if groups.share is not None and self.sparsity not in {None, groups.share}:
            raise RecipeError(
                f"{groups} sets {groups.share:g} of the weights to zero, but sparsity is {self.sparsity:g}",
                where=NAME,
                hint="leave sparsity out",
            )
        if groups.of and self.scope != "layer":
            raise RecipeError(f"{groups} ranks within groups of {groups.of}: leave scope out", where=f"{NAME}.scope")
        if self.fits and self.scope == "global":
            raise RecipeError(
                "weights are refitted layer by layer, so scope=global is not possible",
                where=f"{NAME}.scope",
                hint="scope=layer or scope=row, or reconstruct=false with score=magnitude or wanda",
            )

    @property
    def groups(self) -> Pattern:
        """What leaves together."""
        return parse_pattern(self.pattern, f"{NAME}.pattern")

    @property
    def share(self) -> float:
        """Share of the weights to set to zero."""
        own = self.groups.share
        return own if own is not None else SPARSITY if self.sparsity is None else self.sparsity

    @property
    def fits(self) -> bool:
        """The weights that stay are fitted."""
        return self.reconstruct or self.score == "obs"

    @property
    def rounds(self) -> int:
        """Times that weights are ranked."""
        return self.steps or (FITTED_STEPS if self.fits else 1)

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        for name, linear in encoder_linears(source).items():
            self.groups.refuse_misfit(name, tuple(linear.weight.shape))

    def needs_whole(self) -> str:
        return "it ranks the weights of the whole model together" if self.scope == "global" else ""

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        if self.fits:
            # Each layer reads the text anew, in both models, up to itself.
            return spent(now, passes=self.texts * max(1, len(now.widths)))
        return spent(now, passes=self.rounds * self.texts if self.score == "wanda" else 0)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.prune._zeros import describe_zeros, refuse_empty

        self.check(given, has_text=True)
        made = replace(given, module=copy.deepcopy(given.module))
        linears = encoder_linears(made)
        batches = self._batches(given, ctx)
        folder = Path(tempfile.mkdtemp(prefix="pruned-", dir=ctx.work)) if made.offloaded else None
        if self.fits:
            self._fit(made, given, batches, ctx, folder)
        else:
            self._rank(made, batches, ctx, folder)
        refuse_empty(linears)
        return Outcome(made, describe_zeros(given, made, ctx))

    def _batches(self, given: TorchModel, ctx: Context) -> "tuple[list[Encoding], ...]":
        from converter.structured.importance import gather_evidence, refuse_little

        if self.score == "magnitude" and not self.fits:
            return ()
        if ctx.calibration_is_builtin:
            ctx.progress.note(
                f"{NAME}: measuring on built-in text; --calibration FILE with your own text gives better results"
            )
        evidence = gather_evidence(given, ctx, n_texts=self.texts, max_length=128, loss="answers", score="taylor")
        if self.fits:
            refuse_little(evidence, NAME, hint="give more text, or score=magnitude without reconstruct")
        return tuple([encoding for _, encoding in batch] for batch in evidence.batches)

    def _fit(
        self,
        made: TorchModel,
        whole: TorchModel,
        batches: "Sequence[Sequence[Encoding]]",
        ctx: Context,
        folder: Path | None,
    ) -> None:
        """Zero and fit the linears of `made` in place, from the input on: later ones make up for earlier ones.

        `folder`: where weights are written of a model whose weights are on disk; they are in memory layer by layer.
        """
        import torch

        from converter.model_folder.offload import held
        from converter.prune._compensate import prune_and_fit
        from converter.prune._sequence import TextRuns, in_groups, linears_of, sums_of_group

        linears = encoder_linears(made)
        groups = in_groups(made, linears, batches[0])
        now, before = TextRuns(made, batches), TextRuns(whole, batches)
        with torch.no_grad(), ctx.progress.task("Pruning and fitting", total=len(groups) * len(batches)) as ticker:
            for group in groups:
                with held(linears_of(made, group), folder), held(linears_of(whole, group)):
                    found = sums_of_group(now, before, group, ticker)
                    for name in list(found):
                        prune_and_fit(linears[name], found.pop(name), self)
            idle = {n: m for n, m in linears.items() if not any(n in group for group in groups)}
            self._zero(idle, None, self.share, folder)

    def _rank(
        self, made: TorchModel, batches: "Sequence[Sequence[Encoding]]", ctx: Context, folder: Path | None
    ) -> None:
        """Zero weights of `made` in place; those that stay keep their values."""
        import torch

        from converter.prune._input_norms import measure_input_norms

        linears = encoder_linears(made)
        total = self.rounds * max(1, len(batches))
        with torch.no_grad(), ctx.progress.task("Ranking weights", total=total) as ticker:
            for step in range(1, self.rounds + 1):
                norms = measure_input_norms(made, list(linears.values()), batches, ticker) if batches else None
                self._zero(linears, norms, share_at(self, step), folder)

    def _zero(
        self,
        linears: "Mapping[str, torch.nn.Linear]",
        norms: "Sequence[torch.Tensor] | None",
        share: float,
        folder: Path | None,
    ) -> None:
        from converter.model_folder.offload import held
        from converter.prune._mask import least, own_least

        modules = list(linears.values())

        def scores(i: int) -> "torch.Tensor":
            size = modules[i].weight.abs()
            return size if norms is None else size * norms[i]

        if self.scope == "global":
            for module, gone in zip(modules, least(scores, len(modules), self.groups, share), strict=True):
                module.weight.masked_fill_(gone, 0.0)
            return
        for i, (name, module) in enumerate(linears.items()):
            with held({name: module}, folder):
                module.weight.masked_fill_(own_least(scores(i), self.groups, share, by_row=self.scope == "row"), 0.0)


def share_at(stage: ThresholdPruning, step: int) -> float:
    """Return the share that is zero after `step` of the stage's steps.

    >>> [round(share_at(ThresholdPruning(0.8, steps=4), s), 3) for s in (1, 2, 3, 4)]
    [0.463, 0.7, 0.788, 0.8]
    """
    left = 1 - step / stage.rounds
    return stage.share * (1 - (left**3 if stage.schedule == "cubic" else left))


def encoder_linears(model: TorchModel) -> "dict[str, torch.nn.Linear]":
    """Return the linear layers of the encoder by name, without the task's head.

    Raises:
        SourceError: there are none.

    """
    import torch

    base = model.module.base_model
    assert isinstance(base, torch.nn.Module)
    found = {name: m for name, m in base.named_modules() if isinstance(m, torch.nn.Linear) and m.weight.numel()}
    if not found:
        raise SourceError("the model has no linear layers to prune", where=model.provenance.id)
    return found
