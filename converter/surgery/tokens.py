"""A copy of an encoder whose layers drop tokens, and the products that this leaves."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from converter.errors import UsageError
from converter.graphs import MODEL, SEQUENCE
from converter.model_folder.token_shares import Score, left_of
from converter.registry import families
from converter.surgery.resize import family_of

if TYPE_CHECKING:
    from converter.artifact import TorchModel

NEED_EVERY_TOKEN = ("token-classification", "fill-mask")
"""Tasks in which every token has an answer of its own."""


@dataclass(frozen=True)
class LayerWork:
    """Weights of one layer, each of which is a product a token; `width` those of its heads side by side."""

    query: int
    key_value: int
    attention_output: int
    ffn: int
    width: int


def refuse_dropping(model: "TorchModel", where: str) -> None:
    """Raise where the layers of a model cannot drop tokens.

    Raises:
        UsageError: its task needs every token, or nothing is known of how its layers are run.
        SourceError: its architecture has no family file.

    """
    if model.task.name in NEED_EVERY_TOKEN:
        raise UsageError(
            f"a model for {model.task.name} answers for every token, and a token that is dropped has no answer",
            where=where,
            hint="leave this step out for this model; prune.structured and prune.layers make it faster",
        )
    family = family_of(model)
    if not family.layer_loop:
        known = sorted(name for name, one in families().items() if one.layer_loop)
        raise UsageError(
            f"layers of {family.model_type} cannot drop tokens: "
            "their positions are read in every layer, or they are not taken apart",
            where=where,
            hint=f"it is known for {', '.join(known)}",
        )
    layers = loop_of(model).layer
    if dropping_of(model) is not None:
        raise UsageError(
            "its layers drop tokens already", where=where, hint="start from the model as it was before that"
        )
    if len({id(layer) for layer in layers}) < len(layers):
        raise UsageError("some of its layers are one and the same", where=where, hint="leave share.layers out")


def loop_of(model: "TorchModel") -> Any:
    """Return the module that runs the layers in turn."""
    base: Any = model.module.base_model
    return base.get_submodule(family_of(model).layer_loop)


def dropping_of(model: "TorchModel") -> dict[str, Any] | None:
    """Return which layers of a model drop tokens, as its `spec` says; None where none does."""
    from converter.model_folder.dropped_tokens import TokenDropping

    found = [part.spec() for part in model.module.modules() if isinstance(part, TokenDropping)]
    return found[0] if found else None


def reads_one_token(model: "TorchModel") -> bool:
    """Tell whether nothing but the first token of the last layer is read, as classifiers do."""
    return not model.specs[MODEL].outputs_along(SEQUENCE)


def with_dropping(model: "TorchModel", shares: Mapping[int, int], score: Score) -> "TorchModel":
    """Return a copy whose layers keep `shares` thousandths of their tokens, by layer.

    Where outputs have every token, dropped ones give the last state that they had.
    """
    from converter.model_folder.dropped_tokens import let_drop

    made = replace(model, module=copy.deepcopy(model.module))
    spec = {
        "layers": list(shares),
        "keep": list(shares.values()),
        "score": score,
        "restores": not reads_one_token(model),
    }
    let_drop(made.module, loop_of(made), spec)
    return made


def work_of(model: "TorchModel") -> list[LayerWork]:
    """Return what each layer multiplies with."""

    def weights(*parts: Any) -> int:
        return sum(p.numel() for part in parts for p in part.parameters() if p.dim() > 1)

    made = []
    for part in family_of(model).layers(model.module):
        query, key, value = part.projections[:3]
        made.append(
            LayerWork(
                weights(query),
                weights(key, value),
                weights(part.attention_output),
                weights(part.ffn_input, part.ffn_output),
                part.n_heads * part.head_dim,
            )
        )
    return made


def products_at(work: Sequence[LayerWork], length: int, shares: Mapping[int, int], *, one_token: bool) -> int:
    """Return the products of a text of `length` tokens in all layers; `one_token`: the last computes one alone."""
    total, n = 0, length
    for i, layer in enumerate(work):
        asked = 1 if one_token and i == len(work) - 1 else n
        left = left_of(n, shares[i]) if i in shares else n
        total += asked * (layer.query + layer.attention_output + 2 * n * layer.width) + n * layer.key_value
        total += min(asked, left) * layer.ffn
        n = left
    return total
