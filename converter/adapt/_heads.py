"""What an exit learns from, how it is trained, and the confidence from which its answer counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from converter.forward import Forward
from converter.model_folder.exits import EarlyExits, confidence
from converter.reference import feed_of
from converter.scoring.intervals import CONFIDENCE, share_interval
from converter.training.losses import softened_kl

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.examples import Encoding
    from converter.stage import Ticker

BATCH = 32
RATE, DECAY = 2e-3, 0.01
CANDIDATES = 64
"""Thresholds that are tried, from the strictest down."""


@dataclass(frozen=True)
class Seen:
    """What the model makes of some texts."""

    states: tuple[torch.Tensor, ...]
    """Of the first token behind each exit's layer, `[texts, width]`."""
    logits: torch.Tensor
    """The model's own answers, `[texts, classes]`."""
    lengths: tuple[int, ...]


def look(model: "TorchModel", encodings: "Sequence[Encoding]", layers: Sequence[int], ticker: "Ticker") -> Seen:
    """Run texts through the model, and keep what exits behind `layers` read."""
    order = sorted(range(len(encodings)), key=lambda i: encodings[i].length)
    states: list[list[torch.Tensor]] = [[] for _ in layers]
    logits: list[torch.Tensor] = []
    forward = Forward(model)
    for begin in range(0, len(order), BATCH):
        rows = order[begin : begin + BATCH]
        feed = {n: torch.from_numpy(v) for n, v in feed_of(model, [encodings[i] for i in rows]).items()}
        with torch.no_grad():
            made = forward.call(feed, hidden=True)
        for found, layer in zip(states, layers, strict=True):
            found.append(made["hidden_states"][layer + 1][:, 0].clone())
        logits.append(made["logits"].clone())
        ticker.advance(len(rows))
    return Seen(tuple(map(torch.cat, states)), torch.cat(logits), tuple(encodings[i].length for i in order))


def train_heads(exits: EarlyExits, seen: Seen, epochs: int, seed: int, ticker: "Ticker") -> None:
    """Let each head learn the model's own answers; the layers before it stay as they are."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in exits.parameters():
        with torch.no_grad():
            # Drawn here: a module's own weights depend on what was made before it.
            wide = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * wide)
    optimizer = torch.optim.AdamW(exits.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(seen.logits), generator=rng), BATCH):
            losses = [
                softened_kl(head(states[rows]), seen.logits[rows], 1.0)
                for head, states in zip(exits.heads, seen.states, strict=True)
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ticker.advance()


@dataclass(frozen=True)
class Judged:
    """What exits do on text that none of them learned from."""

    leaves: tuple[float, ...]
    """Share of the texts that leaves at each exit."""
    agreement: float
    agreement_low: float
    at: np.ndarray
    """int `[texts]`: the exit that each text leaves at; as many as there are exits: none."""


def set_thresholds(exits: EarlyExits, learned: Seen, held: Seen, agreement: float) -> Judged:
    """Give each exit the lowest threshold at which agreement with the whole model is sure to hold.

    Thresholds are tried from the strictest down, and the first that is not sure ends it (fixed-sequence testing): each
    exit is then wrong with a chance of no more than its share of 1 - 0.95, however many were tried. Each exit has an
    equal share of the disagreement that is allowed, after those before it.
    """
    n_exits = len(exits.layers)
    sure = 1.0 - (1.0 - CONFIDENCE) / n_exits
    own = held.logits.argmax(dim=-1)
    at = np.full(len(own), n_exits)
    answers = own.clone()
    with torch.no_grad():
        for i, head in enumerate(exits.heads):
            wanted = 1.0 - (1.0 - agreement) * (i + 1) / n_exits
            found = head(held.states[i])
            tried = np.unique(confidence(head(learned.states[i])).numpy())
            places = np.linspace(0, len(tried) - 1, min(CANDIDATES, len(tried))).astype(int)
            for threshold in sorted(tried[places], reverse=True):
                leaving = torch.from_numpy(at == n_exits) & (confidence(found) >= float(threshold))
                then = torch.where(leaving, found.argmax(dim=-1), answers)
                if share_interval((then == own).float().tolist(), sure).low < wanted:
                    break
                exits.thresholds[i] = float(threshold)
            leaving = torch.from_numpy(at == n_exits) & (confidence(found) >= exits.thresholds[i])
            answers = torch.where(leaving, found.argmax(dim=-1), answers)
            at[leaving.numpy()] = i
    interval = share_interval((answers == own).float().tolist(), sure)
    leaves = tuple(float((at == i).mean()) for i in range(n_exits))
    return Judged(leaves, interval.value, interval.low, at)


def least_texts(agreement: float, n_exits: int) -> int:
    """Return how many texts show this agreement with confidence where all of them agree."""
    chance = (1.0 - CONFIDENCE) / n_exits
    return math.ceil(math.log(chance) / math.log(1.0 - (1.0 - agreement) / n_exits))
