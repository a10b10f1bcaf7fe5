"""The refit of a model that writes text: output weights of what is kept take over what is gone, by least squares.

All from the second moments of what the whole model's own output linears read, `H = X'X`: with the inputs K kept and R
removed, `W_K + (H_KK + λI)⁻¹ H_KR W_R` loses least of `X W` (Kwon et al., arXiv 2204.09656, tune a mask so; OBS for
whole structures, 2302.04089). One run of the model over the text for as many moments as the memory holds.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from converter.artifact import TorchModel
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
MATRIX_BYTES = 512 * 2**20
"""Moments that are held at once."""


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
