"""Unstructured pruning: single weights to zero by magnitude."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import TorchModel
from converter.binding import option
from converter.errors import SourceError
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    import torch

HONESTLY = (
    "single weights are zero, the matrices keep their shape: no runtime here gets faster and no file smaller; "
    "only a compressed archive of it does"
)
SAMPLE = 1 << 20
"""Weights that are compressed to say what an archive gains."""


@dataclass(frozen=True)
class ThresholdPruning(Stage[TorchModel, TorchModel]):
    """Set the smallest weights of the encoder's linear layers to zero; embeddings, biases and the task's head stay.

    `magnitude` ranks by |w| (Han et al. 2015, arXiv 1506.02626), `activation` by |w| x the size of its input on real
    text (Wanda, arXiv 2306.11695). The schedule is that of Zhu and Gupta 2017 (arXiv 1710.01878): inputs are measured
    and weights ranked anew after each step. Magnitudes alone do not change between steps, so there one step serves.
    The distillation stages keep these zeros.

    As a recipe: `compress = [{stage = "prune.threshold", sparsity = 0.5, scope = "layer"}]`
    """

    sparsity: float = option(0.5, "share of the weights to set to zero", low=0.01, high=0.99)
    scope: Literal["global", "layer", "row"] = option(
        "layer", "rank over the whole model, within each matrix, or within each of its rows"
    )
    score: Literal["magnitude", "activation"] = option("magnitude", "rank by |w|, or by |w| x the size of its input")
    steps: int = option(1, "rank anew this many times on the way", low=1, high=64)
    schedule: Literal["cubic", "linear"] = option("cubic", "how the share grows over the steps")
    texts: int = option(128, "texts that inputs are measured on (score=activation)", low=1)

    summary = "set the smallest weights to zero"

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        import torch

        from converter.prune._importance import gather_evidence

        made = replace(given, module=copy.deepcopy(given.module))
        linears = encoder_linears(made)
        batches: tuple[Any, ...] = ()
        if self.score == "activation":
            evidence = gather_evidence(given, ctx, n_texts=self.texts, max_length=128, loss="answers", score="taylor")
            batches = tuple([encoding for _, encoding in batch] for batch in evidence.batches)
        total = self.steps * max(1, len(batches))
        with torch.no_grad(), ctx.progress.task("Ranking weights", total=total) as ticker:
            for step in range(1, self.steps + 1):
                norms = self._norms(made, list(linears.values()), batches, ticker)
                self._zero([m.weight for m in linears.values()], norms, share_at(self, step))
        return Outcome(made, _facts(linears))

    def _norms(
        self, made: TorchModel, linears: "Sequence[torch.nn.Linear]", batches: Sequence[Any], ticker: Any
    ) -> "list[torch.Tensor] | None":
        from converter.prune._input_norms import measure_input_norms

        if self.score == "activation":
            return measure_input_norms(made, linears, batches, ticker)
        ticker.advance()
        return None

    def _zero(self, weights: "Sequence[torch.Tensor]", norms: "Sequence[torch.Tensor] | None", share: float) -> None:
        from converter.prune._magnitude import zero_smallest, zero_smallest_of_rows

        def scores(i: int) -> "torch.Tensor":
            size = weights[i].abs()
            return size if norms is None else size * norms[i]

        if self.scope == "global":
            zero_smallest(weights, scores, round(share * sum(w.numel() for w in weights)))
            return
        for i, weight in enumerate(weights):
            if self.scope == "layer":
                zero_smallest([weight], lambda _, i=i: scores(i), round(share * weight.numel()))  # type: ignore[misc]
            else:
                zero_smallest_of_rows(weight, scores(i), round(share * weight.shape[1]))


def share_at(stage: ThresholdPruning, step: int) -> float:
    """Return the share that is zero after `step` of the stage's steps.

    >>> [round(share_at(ThresholdPruning(0.8, steps=4), s), 3) for s in (1, 2, 3, 4)]
    [0.463, 0.7, 0.788, 0.8]
    """
    left = 1 - step / stage.steps
    return stage.sparsity * (1 - (left**3 if stage.schedule == "cubic" else left))


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


def _facts(linears: "dict[str, torch.nn.Linear]") -> dict[str, Any]:
    zeros = {name: int((m.weight == 0).sum()) for name, m in linears.items()}
    sizes = {name: m.weight.numel() for name, m in linears.items()}
    return {
        "sparsity": sum(zeros.values()) / sum(sizes.values()),
        "weights": sum(sizes.values()),
        "zeros": sum(zeros.values()),
        "sparsity_of_matrices": {name: round(zeros[name] / sizes[name], 4) for name in linears},
        "archive_ratio": _archive_ratio([m.weight for m in linears.values()]),
        "note": HONESTLY,
    }


def _archive_ratio(weights: "Sequence[torch.Tensor]") -> float:
    """Return compressed over plain size of the first weights (zlib, as archives and downloads use)."""
    import zlib

    taken, size = [], 0
    for weight in weights:
        taken.append(weight.detach().flatten()[: SAMPLE - size].numpy().tobytes())
        size += min(weight.numel(), SAMPLE - size)
    plain = b"".join(taken)
    return round(len(zlib.compress(plain, 6)) / len(plain), 4)
