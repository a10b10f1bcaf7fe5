"""Pruning of a model that writes text: the share that makes a size, and the refit of what is kept by least squares.

Output weights take over what is gone, all from the second moments of what the whole model's own output linears read,
`H = X'X`: with the inputs K kept and R removed, `W_K + (H_KK + λI)⁻¹ H_KR W_R` loses least of `X W` (Kwon et al., arXiv
2204.09656, tune a mask so; OBS for whole structures, 2302.04089). The model runs over the text once for as many moments
as the memory holds.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from converter.artifact import TorchModel
from converter.errors import RecipeError
from converter.forecast import forecast_of, with_widths
from converter.model_folder.shape_map import LayerShape
from converter.reference import feed_of
from converter.structured.importance import token_masks
from converter.surgery.cut import inputs_of, matrix_of
from converter.surgery.resize import family_of, places_of

if TYPE_CHECKING:
    from converter.stage import Progress
    from converter.structured.importance import Evidence

RIDGE = 0.01
"""Of the mean diagonal of `H`: how firmly old weights are held."""
MOST, HALVINGS, MISSED = 0.95, 24, 0.02
"""Of heads and neurons that may go, the steps in which their share is found, and how far a size may be missed."""
MATRIX_BYTES = 512 * 2**20
"""Moments that are held at once."""


@dataclass(frozen=True)
class SizedShare:
    """The share of heads and neurons that goes so that a package is of a size, its weights stored in `stored` bytes."""

    share: float
    megabytes: float
    """What is wanted."""
    stored: float

    def facts(self, made: TorchModel) -> dict[str, Any]:
        """Return what was wanted and what came of it."""
        found = forecast_of(made).bytes(self.stored) / 1e6
        facts: dict[str, Any] = {"budget": {"unit": "MB", "wanted": self.megabytes, "found": round(found, 4)}}
        # Heads and chunks of neurons go whole: a little more may be left.
        if found > self.megabytes * (1 + MISSED):
            facts["budget_missed"] = (
                f"{found:.3g} MB is the lowest that can be reached, {self.megabytes:.3g} was requested "
                f"({found / self.megabytes:.2f} times as much)"
            )
        return facts


def share_of_size(given: TorchModel, megabytes: float, stored: float) -> SizedShare:
    """Return the share of heads and neurons, the same of both, that makes a package of `megabytes`; `MOST` at most."""
    now, low, high = forecast_of(given), 0.0, MOST
    for _ in range(HALVINGS):
        share = (low + high) / 2
        widths = tuple((_left(h, share), _left(n, share)) for h, n in now.widths)
        low, high = (low, share) if with_widths(now, given, widths).bytes(stored) / 1e6 <= megabytes else (share, high)
    return SizedShare(high, megabytes, stored)


def refuse_idle_size(given: TorchModel, megabytes: float, stored: float) -> None:
    """Raise `RecipeError` where the model, its weights stored in `stored` bytes each, is that small already."""
    size = forecast_of(given).bytes(stored) / 1e6
    if megabytes >= size:
        raise RecipeError(
            f"size_mb={megabytes:g} has no effect: the model already takes {size:.3g} MB as it is",
            where="prune.structured",
            hint="ask for less",
        )


def _left(units: int, share: float) -> int:
    return max(1, round(units * (1 - share)))


@dataclass(frozen=True)
class _Output:
    """One output linear of the whole model, and that of the pruned one."""

    layer: int
    whole: torch.nn.Module
    pruned: torch.nn.Module
    kept: tuple[int, ...]
    """Inputs of `whole` that `pruned` has."""

    @property
    def bytes(self) -> int:
        return 8 * (inputs_of(self.whole) + 1) ** 2


def refitted(given: TorchModel, cut: TorchModel, evidence: "Evidence", progress: "Progress") -> TorchModel:
    """Return `cut`, which was made of `given`, with its output weights fitted to what `given` reads on the text."""
    made = replace(cut, module=copy.deepcopy(cut.module))
    outputs = [o for o in _outputs(given, made, places_of(given, cut)) if len(o.kept) < inputs_of(o.whole)]
    groups = list(_held_together(outputs))
    with progress.task("Refitting what is kept", total=len(groups) * len(evidence.batches)) as ticker:
        for group in groups:
            moments = _moments(given, group, evidence, ticker.advance)
            for output, moment in zip(group, moments, strict=True):
                _refit(output, moment)
    return made


def _outputs(given: TorchModel, made: TorchModel, shapes: Sequence[LayerShape]) -> Iterator[_Output]:
    family = family_of(given)
    pairs = zip(family.layers(given.module), family.layers(made.module), shapes, strict=True)
    for layer, (whole, pruned, shape) in enumerate(pairs):
        heads = _columns(shape.heads, whole.head_dim)
        yield _Output(layer, whole.attention_output, pruned.attention_output, heads)
        if whole.cross is not None and pruned.cross is not None:
            cross = _columns(shape.cross, whole.cross.head_dim)
            yield _Output(layer, whole.cross.attention_output, pruned.cross.attention_output, cross)
        yield _Output(layer, whole.ffn_output, pruned.ffn_output, shape.neurons)


def _columns(units: Sequence[int], width: int) -> tuple[int, ...]:
    return tuple(unit * width + i for unit in units for i in range(width))


def _held_together(outputs: Sequence[_Output]) -> Iterator[list[_Output]]:
    group: list[_Output] = []
    for output in outputs:
        if group and sum(o.bytes for o in (*group, output)) > MATRIX_BYTES:
            yield group
            group = []
        group.append(output)
    if group:
        yield group


def _moments(
    given: TorchModel, group: Sequence[_Output], evidence: "Evidence", tick: Callable[[], None]
) -> list[torch.Tensor]:
    """Return `[X 1]'[X 1]` of each linear's inputs at the tokens that its layer reads."""
    made = [torch.zeros(inputs_of(o.whole) + 1, inputs_of(o.whole) + 1, dtype=torch.float64) for o in group]
    whole = given.whole().eval()
    for batch in evidence.batches:
        encodings = [encoding for _, encoding in batch]
        feed = {n: torch.from_numpy(rows) for n, rows in feed_of(given, encodings).items()}
        masks = token_masks(given, feed, encodings)
        with ExitStack() as hooks, torch.inference_mode():
            for output, moment in zip(group, made, strict=True):
                hook = _adding(moment, masks[output.layer].bool())
                hooks.callback(output.whole.register_forward_pre_hook(hook).remove)
            whole(**feed)
        tick()
    return made


def _adding(moment: torch.Tensor, real: torch.Tensor) -> Callable[..., None]:
    def hook(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
        rows = args[0][real].double()
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        moment.add_(rows.T @ rows)

    return hook


def _refit(output: _Output, moment: torch.Tensor) -> None:
    """Give the pruned linear the weights, and the bias where it has one, that lose least."""
    pruned: Any = output.pruned
    n_inputs = inputs_of(output.whole)
    kept = torch.tensor(output.kept)
    gone = torch.tensor(sorted(set(range(n_inputs)) - set(output.kept)))
    bias = pruned._parameters.get("bias")  # noqa: SLF001 - the attribute is typed as if it were never None
    known = torch.cat([kept, torch.tensor([n_inputs])]) if bias is not None else kept
    weight = matrix_of(output.whole).detach().double()
    block = moment[known][:, known].clone()
    ridge = RIDGE * float(moment.diagonal()[:n_inputs].mean())
    held = torch.full((len(known),), ridge, dtype=torch.float64)
    if bias is not None:
        held[-1] = 1e-9
    block.diagonal().add_(held)
    taken = torch.linalg.solve(block, moment[known][:, gone] @ weight[:, gone].T)
    with torch.no_grad():
        fitted = weight[:, kept] + taken[: len(kept)].T
        matrix_of(pruned).copy_(fitted)
        if bias is not None:
            whole_bias: Any = output.whole.bias
            bias.copy_(whole_bias.double() + taken[-1])
