"""Linear layers of the encoder as two narrow ones each."""

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import TorchModel
from converter.binding import option, span
from converter.errors import UsageError
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    import torch

    from converter.forecast import Forecast

NAME = "factorize.linears"
HONESTLY = (
    "two matrix products instead of one: a smaller file, on a CPU faster only well below half the break-even rank; "
    "prune.structured at the same size is faster and loses less"
)


@dataclass(frozen=True)
class LinearFactors(Stage[TorchModel, TorchModel]):
    """Factor matrices so that their outputs on real text change least (SVD-LLM, Wang et al., arXiv 2403.07378).

    For a small share of the parameters only: beyond that, pruning loses less and is faster. The record has the error of
    each output, and the change of the answers.

    As a recipe: `compress = [{stage = "factorize.linears", where = "ffn", ratio = 0.9}]`
    """

    where: Literal["ffn", "attention", "all"] = option("ffn", "which matrices: ffn, attention or all")
    ratio: float = option(
        0.9,
        "share of the parameters to keep; below 0.8, use prune.structured",
        low=0.8,
        high=0.99,
        search=span(0.8, 0.95, step=0.05),
    )
    texts: int = option(128, "calibration texts to measure inputs on", low=1, effort=32)

    name = NAME
    summary = "low-rank linear layers: each becomes two narrow ones"
    why_not = "two narrow products a matrix cost more than one in a step of one token"
    needs_text = True
    place = 3
    bars = (
        *("prune.layers", "prune.structured", "prune.threshold", "prune.movement", "prune.mixed"),
        *("distill.gradual", "factorize.linears", "share.layers"),
    )

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        from converter.surgery.resize import family_of

        if family_of(source).shares_layers:
            raise UsageError("its layers share one set of weights: the file is small already", where=NAME)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        import torch

        from converter.model_folder.replacements import LowRankLinear, put
        from converter.surgery.count import n_parameters
        from converter.validate.cost import cost_of

        self.check(given, has_text=True)
        made = replace(given, module=copy.deepcopy(given.module))
        linears = self._linears(made)
        moments = self._moments(made, linears, ctx)
        lost: dict[str, float] = {}
        with torch.no_grad(), ctx.progress.task("Factoring", total=len(linears)) as ticker:
            for name, linear in linears.items():
                part, lost[name] = self._factor(linear, moments.pop(name))
                assert isinstance(part, LowRankLinear)
                put(made.module, name, part)
                ticker.advance()
        facts = {
            "matrices": len(lost),
            "output_lost": {n: round(v, 5) for n, v in lost.items()},
            "parameters_before": n_parameters(given),
            "parameters_after": n_parameters(made),
            "cost": cost_of(given, made, ctx),
            "note": HONESTLY,
        }
        return Outcome(made, facts)

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        gone = round((1 - self.ratio) * sum(m.weight.numel() for m in self._linears(model).values()))
        return spent(replace(now, matrices=now.matrices - gone), passes=self.texts + 2 * 64)

    def _linears(self, model: TorchModel) -> "dict[str, torch.nn.Linear]":
        """Return the matrices to factor, by their name in the model."""
        from converter.surgery.layer_stack import LayerStack
        from converter.surgery.resize import family_of

        family = family_of(model)
        assert isinstance(family, LayerStack), "families that share no layers have a list of them"
        wanted: set[int] = set()
        for layer in family.stack(model.module):
            slots = family.slots(layer)
            ffn, attention = (slots.ffn_input, slots.ffn_output), (*slots.projections, slots.attention_output)
            parts = {"ffn": ffn, "attention": attention, "all": (*ffn, *attention)}[self.where]
            wanted |= {id(part) for part in parts}
        # Pruning may have left nothing of a sub-layer: there is no matrix to factor.
        return {n: m for n, m in model.module.named_modules() if id(m) in wanted and m.weight.numel()}

    def _moments(self, model: TorchModel, linears: "dict[str, torch.nn.Linear]", ctx: Context) -> dict[str, Any]:
        """Return `E[x xᵀ]` of each matrix's inputs, one text at a time: padding never counts."""
        import torch

        from converter.data.probes import even_sample
        from converter.reference import encode_probes, run_probe, torch_run

        made = {n: torch.zeros(m.in_features, m.in_features, dtype=torch.float64) for n, m in linears.items()}

        def watch(name: str) -> Any:
            def hook(_module: Any, args: tuple[Any, ...]) -> None:
                rows = args[0].reshape(-1, args[0].shape[-1]).double()
                made[name] += rows.T @ rows

            return hook

        handles = [m.register_forward_pre_hook(watch(n)) for n, m in linears.items()]
        probes = encode_probes(model, even_sample(ctx.calibration, self.texts))
        try:
            run = torch_run(model)
            with ctx.progress.task("Measuring inputs", total=len(probes)) as ticker:
                for probe in probes:
                    run_probe(model, probe, run)
                    ticker.advance()
        finally:
            for handle in handles:
                handle.remove()
        return made

    def _factor(self, linear: "torch.nn.Linear", moment: Any) -> "tuple[torch.nn.Module, float]":
        from converter.factorize._rank import factor_linear
        from converter.model_folder.replacements import LowRankLinear

        n_out, n_in = linear.weight.shape
        rank = max(1, int(self.ratio * n_out * n_in / (n_out + n_in)))
        first, second, lost = factor_linear(linear.weight, moment, rank)
        part = LowRankLinear(n_in, n_out, rank, bias=linear.bias is not None)
        part.first.weight.copy_(first)
        part.second.weight.copy_(second)
        if linear.bias is not None:
            part.second.bias.copy_(linear.bias)
        return part.eval(), lost
