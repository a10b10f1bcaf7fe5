"""Layers that are one: neighbours tied to each other, stored once, run as often as before."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import TorchModel
from converter.binding import option
from converter.errors import RecipeError, UsageError
from converter.graphs import MODEL
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    import torch

    from converter.forecast import Forecast

NAME = "share.layers"
TRIED = 32
"""Texts that a tie is tried on."""
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LayerSharing(Stage[TorchModel, TorchModel]):
    """Share the weights of neighbouring layers until `keep` different ones are left, the least harmful pair first.

    The model gets smaller, not faster: every layer still runs. Without training this loses far more than int8 (sharing
    one pair in MiniLM-L6, 8 % of the weights, changes 5 % of its answers on SST-2), so a distillation should follow;
    ALBERT (arXiv 1909.11942) was trained that way from the start.

    As a recipe: `compress = [{stage = "share.layers", keep = 4}, {stage = "distill.soft"}]`
    """

    keep: int = option(0, "number of different layers to keep; 0: all but one", low=0)
    merge: Literal["mean", "first", "last"] = option(
        "mean", "weights of tied layers: their mean, or those of one of them"
    )

    name = NAME
    summary = "let neighbouring layers share their weights, which are stored once"
    why_not = "a layer that runs twice would need two places in the cache"
    needs_text = True
    bars = ("prune.structured", "prune.mixed", "prune.layers", "distill.gradual", "share.layers")

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        from converter.surgery.resize import family_of

        if family_of(source).shares_layers:
            raise UsageError("its layers already share one set of weights", where=NAME)
        n_layers = len(family_of(source).layers(source.module))
        if self.keep >= n_layers:
            raise RecipeError(f"keep must be below the model's {n_layers} layers, found {self.keep}", where=NAME)
        if n_layers < 2:
            raise UsageError("there is one layer: nothing to tie", where=NAME)

    def check_after(self, before: "Sequence[Stage[Any, Any]]") -> None:
        from converter.prune.layers import layers_left

        left = layers_left(before)
        if left is not None and self.keep >= max(left, 2):
            raise RecipeError(f"keep must be below the {left} layers that are left, found {self.keep}", where=NAME)
        if left == 1:
            raise RecipeError("one layer is left: there is nothing to tie", where=NAME)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.surgery.count import n_parameters
        from converter.validate.cost import cost_of

        self.check(given, has_text=True)
        groups: Groups = tuple((i,) for i in range(len(_stack(given.module))))
        wanted = self.keep or len(groups) - 1
        log = []
        with ctx.progress.task("Trying which layers to tie", total=sum(range(wanted, len(groups)))) as ticker:
            while len(groups) > wanted:
                tries = {g: self._loss(given, g, ctx, ticker) for g in _neighbors(given, groups)}
                if not tries:
                    raise UsageError(
                        "no two neighbouring layers have the same shape", where=NAME, hint="share, then prune"
                    )
                groups = min(tries, key=lambda g: tries[g])
                log.append({"groups": [list(g) for g in groups], "distance": round(tries[groups], 6)})
        made = replace(given, module=tied(given.module, groups, self.merge))
        facts = {
            "ties": log,
            "parameters_before": n_parameters(given),
            "parameters_after": n_parameters(made),
            "cost": cost_of(given, made, ctx),
            "note": "smaller, not faster: every layer still runs",
        }
        return Outcome(made, facts)

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        n_layers = len(_stack(model.module))
        wanted = self.keep or n_layers - 1
        of_one = sum(p.numel() for p in _stack(model.module)[0].parameters())
        gone = min(now.matrices, (n_layers - wanted) * of_one)
        tries = sum(range(wanted, n_layers))
        return spent(replace(now, matrices=now.matrices - gone), passes=2 * TRIED * tries + 2 * 64)

    def _loss(self, given: TorchModel, groups: Groups, ctx: Context, ticker: Any) -> float:
        """Return the divergence from the answers of `given` with these layers tied."""
        import torch

        from converter.data.probes import even_sample
        from converter.reference import encode_probes, feed_of

        smaller = replace(given, module=tied(given.module, groups, self.merge))
        encodings = [p.encoding for p in encode_probes(given, even_sample(ctx.calibration, TRIED))]
        feed = {n: torch.from_numpy(rows) for n, rows in feed_of(given, encodings).items()}
        with torch.no_grad():
            loss = given.task.soft_loss(
                smaller.graphs()[MODEL](**feed), given.graphs()[MODEL](**feed), feed["attention_mask"], 1.0
            )
        ticker.advance()
        return float(loss)


def tied(module: "torch.nn.Module", groups: Groups, merge: str) -> "torch.nn.Module":
    """Return a copy in which the layers of each group are one."""
    import torch

    from converter.model_folder.dropped_tokens import settle

    made = copy.deepcopy(module)
    stack = _stack(made)
    for group in groups:
        layers = [stack[i] for i in group]
        kept = layers[-1] if merge == "last" else layers[0]
        if merge == "mean":
            with torch.no_grad():
                for name, parameter in kept.named_parameters():
                    parameter.copy_(torch.stack([layer.get_parameter(name) for layer in layers]).mean(dim=0))
        for i in group:
            stack[i] = kept
    settle(made)
    return made


def _stack(module: "torch.nn.Module") -> Any:
    from converter.registry import families
    from converter.surgery.layer_stack import LayerStack

    family = families()[module.config.model_type]  # type: ignore[union-attr, index]
    assert isinstance(family, LayerStack), "families that share no layers have a list of them"
    return family.stack(module)


def _neighbors(given: TorchModel, groups: Groups) -> list[Groups]:
    """Return every way to join two neighbouring groups whose layers are alike."""
    stack = _stack(given.module)
    pairs = (i for i in range(len(groups) - 1) if _alike([stack[k] for k in (*groups[i], *groups[i + 1])]))
    return [(*groups[:i], groups[i] + groups[i + 1], *groups[i + 2 :]) for i in pairs]


def _alike(layers: Sequence["torch.nn.Module"]) -> bool:
    """Tell layers of the same parts and widths, which attend alike (ModernBERT's take turns)."""
    shapes = [{n: tuple(p.shape) for n, p in layer.named_parameters()} for layer in layers]
    kinds = {str(getattr(layer, "attention_type", "")) for layer in layers}
    return all(s == shapes[0] for s in shapes) and len(kinds) == 1
