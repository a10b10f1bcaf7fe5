"""Linear layers whose scores learn beside their weights, and the parts of the training between two rankings."""

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from converter.artifact import TorchModel
from converter.model_folder.replacements import put
from converter.prune._mask import least, own_least
from converter.prune._zeros import describe_zeros, refuse_empty
from converter.prune.threshold import ThresholdPruning, encoder_linears, share_at
from converter.stage import Context, Outcome
from converter.training.distillation import prepare
from converter.training.teacher import KEPT

if TYPE_CHECKING:
    from converter.prune.movement import MovementPruning
    from converter.training.loop import Trained


class ScoredLinear(torch.nn.Linear):
    """A linear layer that reads its weights through zeros, and whose scores get the gradient -(-w dL/dw).

    An optimizer that follows it raises the score of a weight that it moves away from zero.
    """

    stays: torch.Tensor

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.scores = torch.nn.Parameter(linear.weight.detach().abs().clone())
        self.register_buffer("stays", torch.ones_like(linear.weight))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        # Adds nothing; what flows back into the scores is dL/dw times w, of weights that are zero now as well.
        straight = (self.scores - self.scores.detach()) * self.weight.detach()
        return torch.nn.functional.linear(given, self.weight * self.stays + straight, self.bias)


def prune_by_movement(stage: "MovementPruning", given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
    """Rank and train in turns, then train what is left with the zeros held."""
    stage.check(given, has_text=True)
    setup = prepare("prune.movement", stage, stage.weights, given, ctx)
    made = replace(given, module=_scored(given))
    trained: list[Trained] = []
    for cut in range(1, stage.cuts + 1):
        _rank(_layers(made.module), stage.ranking, cut)
        if cut == stage.cuts:
            made = replace(made, module=_settled(made.module))
        begin, end = (stage.until * (c - 1) / (stage.cuts - 1) for c in (cut, cut + 1))
        trained.append(setup.train(made, (begin, end if cut < stage.cuts else 1.0)))
        made = replace(made, module=trained[-1].module)
    shutil.rmtree(ctx.work / KEPT, ignore_errors=True)
    refuse_empty(encoder_linears(made))
    return Outcome(made, describe_zeros(given, made, ctx) | setup.facts(trained))


def _scored(given: TorchModel) -> torch.nn.Module:
    """Return a copy of the module with scores."""
    module = copy.deepcopy(given.module)
    wanted = {id(m) for m in encoder_linears(replace(given, module=module)).values()}
    found = {name: m for name, m in module.named_modules() if id(m) in wanted}
    for name, linear in found.items():
        assert isinstance(linear, torch.nn.Linear)
        put(module, name, ScoredLinear(linear))
    return module


def _layers(module: torch.nn.Module) -> dict[str, ScoredLinear]:
    return {name: m for name, m in module.named_modules() if isinstance(m, ScoredLinear)}


def _rank(layers: dict[str, ScoredLinear], ranking: ThresholdPruning, cut: int) -> None:
    """Choose anew which weights are zero."""
    # Scores may be negative, ranks are of numbers that are not: all are raised alike.
    lowest = min(float(m.scores.detach().min()) for m in layers.values())
    scores = [(m.scores.detach() - lowest).clamp(min=0) for m in layers.values()]
    share = share_at(ranking, cut)
    if ranking.scope == "global":
        chosen: Sequence[torch.Tensor] = least(lambda i: scores[i], len(scores), ranking.groups, share)
    else:
        chosen = [own_least(s, ranking.groups, share, by_row=ranking.scope == "row") for s in scores]
    for layer, gone in zip(layers.values(), chosen, strict=True):
        layer.stays.copy_(~gone)


def _settled(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module with plain linear layers, zeros in their weights."""
    for name, layer in _layers(module).items():
        plain = torch.nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        plain.weight, plain.bias = layer.weight, layer.bias
        with torch.no_grad():
            plain.weight.mul_(layer.stays)
        put(module, name, plain)
    return module
