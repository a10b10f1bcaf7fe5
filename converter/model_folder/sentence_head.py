"""The modules of sentence-transformers that follow its encoder, inside the graph and in their listed order."""

from collections.abc import Sequence

import torch

TOKENS, SENTENCE = "token_embeddings", "sentence_embedding"
"""What modules read and write, by sentence-transformers' names: `[batch, length, width]` and `[batch, width]`."""
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""In the order in which sentence-transformers joins the vectors of several flags."""

Features = dict[str, torch.Tensor]


class Step(torch.nn.Module):
    """One module after the encoder: features and mask `[batch, length]` to features."""

    def forward(self, features: Features, mask: torch.Tensor) -> Features:
        raise NotImplementedError


class Pool(Step):
    """Token vectors to one vector a text; the vectors of several modes are joined in the order of `modes`.

    `left_padded`: the tokenizer pads on the left, so that the first token of a text is not that of its row.
    `prompt_length`: tokens of a prompt, the first token of the row among them, that are not pooled (`include_prompt`
    is false).
    """

    def __init__(self, modes: tuple[str, ...], *, left_padded: bool = False, prompt_length: int = 0) -> None:
        super().__init__()
        self.modes, self.left_padded, self.prompt_length = modes, left_padded, prompt_length

    def forward(self, features: Features, mask: torch.Tensor) -> Features:
        hidden = features[TOKENS]
        real = mask.to(hidden.dtype)
        place = torch.arange(hidden.shape[1], device=hidden.device).to(hidden.dtype).unsqueeze(0)
        first = (
            (_first(real, place) * place).sum(dim=1, keepdim=True)
            if self.left_padded
            else torch.zeros_like(place[:, :1])
        )
        kept = real * (place >= first + self.prompt_length).to(hidden.dtype) if self.prompt_length else real
        pooled = [self._pool(mode, hidden, kept, place, first) for mode in self.modes]
        return features | {SENTENCE: torch.cat(pooled, dim=-1)}

    def _pool(
        self, mode: str, hidden: torch.Tensor, kept: torch.Tensor, place: torch.Tensor, first: torch.Tensor
    ) -> torch.Tensor:
        if mode == "cls":
            if not self.left_padded and not self.prompt_length:
                return hidden[:, 0]
            return (hidden * _first(kept, place).unsqueeze(-1)).sum(dim=1)
        if mode == "lasttoken":
            return (hidden * _last(kept, place).unsqueeze(-1)).sum(dim=1)
        if mode == "max":
            return (hidden + (kept.unsqueeze(-1) - 1.0) * 1e9).amax(dim=1)
        weights = kept * (place + 1.0 - first) if mode == "weightedmean" else kept
        weights = weights.unsqueeze(-1)
        total, count = (hidden * weights).sum(dim=1), weights.sum(dim=1).clamp(min=1e-9)
        return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def _first(real: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return 1 at the first real token of each row, 0 elsewhere; products and a maximum, which every runtime has."""
    rank = real * (place.shape[1] - place)
    return (rank == rank.amax(dim=1, keepdim=True)).to(real.dtype)


def _last(real: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    rank = real * (place + 1.0)
    return (rank == rank.amax(dim=1, keepdim=True)).to(real.dtype)


class Project(Step):
    """A linear layer, an activation, and where wanted what came in (`use_residual`), projected if its size differs."""

    def __init__(
        self,
        size: tuple[int, int],
        activation: torch.nn.Module,
        *,
        bias: bool = True,
        residual: bool = False,
        names: tuple[str, str] = (SENTENCE, SENTENCE),
    ) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(*size, bias=bias)
        self.activation_function = activation
        self.use_residual, self.names = residual, names
        if residual and size[0] != size[1]:
            self.residual = torch.nn.Linear(*size, bias=False)

    def forward(self, features: Features, mask: torch.Tensor) -> Features:
        given = features[self.names[0]]
        made = self.activation_function(self.linear(given))
        if self.use_residual:
            made = made + (self.residual(given) if hasattr(self, "residual") else given)
        return features | {self.names[1]: made}


class Normalize(Step):
    """To length 1."""

    def __init__(self, names: tuple[str, str] = (SENTENCE, SENTENCE)) -> None:
        super().__init__()
        self.names = names

    def forward(self, features: Features, mask: torch.Tensor) -> Features:
        given = features[self.names[0]]
        return features | {self.names[1]: given / given.norm(dim=-1, keepdim=True).clamp(min=1e-12)}


class LayerNorm(Step):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(size)

    def forward(self, features: Features, mask: torch.Tensor) -> Features:
        return features | {SENTENCE: self.norm(features[SENTENCE])}


class Truncate(Step):
    """The first `size` numbers of an embedding (`truncate_dim`), as Matryoshka models are used."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Features, mask: torch.Tensor) -> Features:
        return features | {SENTENCE: features[SENTENCE][..., : self.size]}


class SentenceHead(torch.nn.Module):
    """`last_hidden_state` `[batch, length, hidden]` and `attention_mask` `[batch, length]` to `[batch, width]`."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        self.steps = torch.nn.ModuleList(steps)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {TOKENS: hidden}
        for step in self.steps:
            features = step(features, attention_mask)
        return features[SENTENCE]

    @property
    def normalized(self) -> bool:
        """Whether every embedding has length 1."""
        last = self.steps[-1] if len(self.steps) else None
        return isinstance(last, Normalize) and last.names == (SENTENCE, SENTENCE)
