"""An output layer for some tokens alone: the same rows, fewer of them."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.artifact import TorchModel


def with_shortlist(model: "TorchModel", kept: Sequence[int]) -> "TorchModel":
    """Return a copy whose output layer has rows for the tokens `kept` alone, ascending ids; embeddings stay whole."""
    import torch

    from converter.model_folder.replacements import ShortlistOutput, put, untie

    module: Any = copy.deepcopy(model.module)
    output = module.get_output_embeddings()
    name = next(n for n, part in module.named_modules() if part is output)
    index = torch.as_tensor(list(kept))
    vocabulary, width = output.weight.shape
    bias = getattr(output, "bias", None)
    part = ShortlistOutput(width, len(kept), vocabulary, bias=bias is not None)
    with torch.no_grad():
        part.rows.weight.copy_(output.weight.index_select(0, index))
        if bias is not None:
            part.rows.bias.copy_(bias.index_select(0, index))
        part.place[index] = torch.arange(len(kept), dtype=torch.int32)
    put(module, name, part.eval())
    untie(module, name)
    return replace(model, module=module)


def shortlist_of(model: "TorchModel") -> tuple[int, ...] | None:
    """Return the tokens that the output layer has rows for; None where it has all."""
    from converter.model_folder.replacements import ShortlistOutput

    found = [part for part in model.module.modules() if isinstance(part, ShortlistOutput)]
    return found[0].kept if found else None
