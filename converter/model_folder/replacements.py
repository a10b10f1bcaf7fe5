"""Modules that stand in for a larger one: fewer bytes for nearly the same rows or products.

They answer like what they replace, export as ordinary operators, and say what they are (`spec`): `stand_ins.json` in a
saved folder lists them, and `pruned.py` puts empty ones in their places before the weights load.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from converter.artifact import EXITS
from converter.errors import SourceError
from converter.model_folder.dropped_tokens import TokenDropping, let_drop
from converter.model_folder.exits import EarlyExits, empty_exits

if TYPE_CHECKING:
    from collections.abc import Mapping

Spec = dict[str, Any]
FIRST_CODE = 128
BELOW = 10.0
"""How far the scores of tokens without a row lie below the lowest of the others: never chosen, and no infinity."""


class CodebookEmbedding(torch.nn.Module):
    """Rows as `scale * codebook[codes]`; the commonest tokens add what that leaves of theirs.

    `codes` is int8 `[rows, width / span]`, counted from -128 (TFLite has no unsigned constants): `span` weights to a
    byte. `place` is the row of a token's own rest in
    `rest`, whose first row is zero.
    """

    kind = "codebook"
    codes: torch.Tensor
    place: torch.Tensor

    def __init__(
        self, shape: tuple[int, int], span: int, entries: int, exact: int, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        rows, width = shape
        self.num_embeddings, self.embedding_dim, self.padding_idx = rows, width, padding_idx
        self.register_buffer("codes", torch.zeros(rows, width // span, dtype=torch.int8))
        self.register_buffer("place", torch.zeros(rows, dtype=torch.int32))
        self.scale = torch.nn.Parameter(torch.ones(rows, 1))
        self.codebook = torch.nn.Parameter(torch.zeros(entries, span))
        self.rest = torch.nn.Parameter(torch.zeros(exact + 1, width))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        codes = F.embedding(ids, self.codes).int() + FIRST_CODE
        rows = F.embedding(codes, self.codebook).flatten(-2) * F.embedding(ids, self.scale)
        if len(self.rest) == 1:
            return rows
        return rows + F.embedding(self.place[ids], self.rest)

    @property
    def weight(self) -> torch.Tensor:
        """All rows, made anew."""
        with torch.no_grad():
            return self.forward(torch.arange(self.num_embeddings))

    def spec(self) -> Spec:
        return {
            "kind": self.kind,
            "rows": self.num_embeddings,
            "width": self.embedding_dim,
            "span": self.codebook.shape[1],
            "entries": self.codebook.shape[0],
            "exact": len(self.rest) - 1,
            "padding_idx": self.padding_idx,
        }


class LowRankEmbedding(torch.nn.Module):
    """`rows [n, rank]` times `wide [rank, width]`."""

    kind = "low-rank-embedding"

    def __init__(self, shape: tuple[int, int], rank: int, padding_idx: int | None = None) -> None:
        super().__init__()
        rows, width = shape
        self.num_embeddings, self.embedding_dim, self.padding_idx = rows, width, padding_idx
        self.narrow = torch.nn.Embedding(rows, rank)
        self.wide = torch.nn.Linear(rank, width, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.wide(self.narrow(ids))
        return made

    @property
    def weight(self) -> torch.Tensor:
        """All rows, made anew."""
        with torch.no_grad():
            return self.narrow.weight @ self.wide.weight.T

    def spec(self) -> Spec:
        return {
            "kind": self.kind,
            "rows": self.num_embeddings,
            "width": self.embedding_dim,
            "rank": self.wide.in_features,
            "padding_idx": self.padding_idx,
        }


class LowRankLinear(torch.nn.Module):
    """A linear layer as two: `[in, rank]`, then `[rank, out]` with the bias."""

    kind = "low-rank-linear"

    def __init__(self, in_features: int, out_features: int, rank: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.first = torch.nn.Linear(in_features, rank, bias=False)
        self.second = torch.nn.Linear(rank, out_features, bias=bias)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.second(self.first(given))
        return made

    def spec(self) -> Spec:
        return {
            "kind": self.kind,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "rank": self.first.out_features,
            "bias": self.second.bias is not None,
        }


class ShortlistOutput(torch.nn.Module):
    """An output layer that has rows for some tokens alone: their scores are exact, all others lie below them.

    `place` is int32 `[vocabulary]`: the row of each token, and one past the last for a token that has none. Scores stay
    as wide as the vocabulary, so that clients and settings know nothing of it.
    """

    kind = "shortlist"
    place: torch.Tensor

    def __init__(self, width: int, kept: int, vocabulary: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = width, vocabulary
        self.rows = torch.nn.Linear(width, kept, bias=bias)
        self.register_buffer("place", torch.full((vocabulary,), kept, dtype=torch.int32))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.rows(given)
        below = scores.amin(dim=-1, keepdim=True) - BELOW
        return torch.cat([scores, below], dim=-1).index_select(-1, self.place)

    @property
    def kept(self) -> tuple[int, ...]:
        """The tokens that have a row, ascending."""
        found = torch.nonzero(self.place < self.rows.out_features).flatten().tolist()
        return tuple(int(i) for i in found)

    def spec(self) -> Spec:
        return {
            "kind": self.kind,
            "width": self.in_features,
            "kept": self.rows.out_features,
            "vocabulary": self.out_features,
            "bias": self.rows.bias is not None,
        }


StandIn = CodebookEmbedding | LowRankEmbedding | LowRankLinear | ShortlistOutput | TokenDropping | EarlyExits


def stand_ins(module: torch.nn.Module) -> dict[str, Spec]:
    """Return what stands in for something in `module`, by name; a module used twice has its first name."""
    return {n: m.spec() for n, m in module.named_modules() if isinstance(m, StandIn)}


def put(module: torch.nn.Module, name: str, part: torch.nn.Module) -> None:
    """Put `part` in the place `name`, and wherever else the same module stands."""
    old = module.get_submodule(name)
    for owner in module.modules():
        for child, value in owner.named_children():
            if value is old:
                setattr(owner, child, part)


def put_empty(module: torch.nn.Module, specs: "Mapping[str, Spec]", where: str) -> None:
    """Put empty stand-ins in their places, for weights that are about to be loaded.

    Raises:
        SourceError: the list is damaged, or names a place that the model does not have.

    """
    for name, spec in specs.items():
        try:
            if spec["kind"] == EarlyExits.kind and name == EXITS:
                module.add_module(name, empty_exits(spec, module.config))
                continue
            part = module.get_submodule(name)
            if spec["kind"] == TokenDropping.kind:
                let_drop(module, part, spec)
                continue
            put(module, name, _made(dict(spec)))
            if spec["kind"] == ShortlistOutput.kind:
                untie(module, name)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SourceError(f"the replacement of {name} is damaged ({error})", where=where) from None


def _made(spec: Spec) -> torch.nn.Module:
    kind = spec.pop("kind")
    if kind == CodebookEmbedding.kind:
        shape = int(spec["rows"]), int(spec["width"])
        sizes = int(spec["span"]), int(spec["entries"]), int(spec["exact"])
        return CodebookEmbedding(shape, *sizes, spec["padding_idx"])
    if kind == LowRankEmbedding.kind:
        return LowRankEmbedding((int(spec["rows"]), int(spec["width"])), int(spec["rank"]), spec["padding_idx"])
    if kind == LowRankLinear.kind:
        inputs, outputs, rank = (int(spec[n]) for n in ("in_features", "out_features", "rank"))
        return LowRankLinear(inputs, outputs, rank, bias=bool(spec["bias"]))
    if kind == ShortlistOutput.kind:
        width, kept, vocabulary = (int(spec[n]) for n in ("width", "kept", "vocabulary"))
        return ShortlistOutput(width, kept, vocabulary, bias=bool(spec["bias"]))
    raise ValueError(f"unknown kind {kind!r}")


def untie(module: torch.nn.Module, name: str) -> None:
    """Let transformers forget that the module `name` has its weight of another: it would be given it again."""
    owner: Any = module
    for names in ("_tied_weights_keys", "all_tied_weights_keys"):
        known = getattr(owner, names, None)
        if isinstance(known, dict):
            setattr(owner, names, {k: v for k, v in known.items() if not k.startswith(f"{name}.")})


def tied_layers(module: torch.nn.Module) -> dict[str, str]:
    """Return the modules of lists that are the same as an earlier one of their list, by name, with that one's name.

    ALBERT, which has one layer in the first place, has none.
    """
    found: dict[str, str] = {}
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.ModuleList):
            first: dict[int, str] = {}
            for i, item in enumerate(part):
                here = f"{name}.{i}"
                known = first.setdefault(id(item), here)
                if known != here:
                    found[here] = known
    return found


def tie_layers(module: torch.nn.Module, ties: "Mapping[str, str]", where: str) -> None:
    """Make each module named in `ties` the one that it is tied to.

    Raises:
        SourceError: a name does not exist.

    """
    for name, first in ties.items():
        owner, _, child = name.rpartition(".")
        try:
            module.get_submodule(name)
            setattr(module.get_submodule(owner), child, module.get_submodule(first))
        except AttributeError as error:
            raise SourceError(f"a shared layer is missing ({error})", where=where) from None


def own_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights that a file needs: of tied layers the first alone."""
    tied = tuple(f"{name}." for name in tied_layers(module))
    return {n: t for n, t in module.state_dict().items() if not (tied and n.startswith(tied))}
