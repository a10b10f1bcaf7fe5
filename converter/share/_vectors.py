"""Vector quantization: pieces of rows to the nearest of a few, chosen by k-means (Lloyd 1957)."""

import torch

SAMPLE = 60_000
"""Pieces that the codebook is learned from."""
ROUNDS = 20
AT_ONCE = 32_768
"""Pieces that are compared with the whole codebook at a time: 32 MB."""


def learn_codebook(pieces: torch.Tensor, entries: int, seed: int) -> torch.Tensor:
    """Return `entries` pieces `[entries, span]` near which the given ones `[n, span]` lie."""
    rng = torch.Generator().manual_seed(seed)
    sample = pieces[torch.randperm(len(pieces), generator=rng)[:SAMPLE]]
    book = sample[:entries].clone()
    if len(book) < entries:
        book = torch.cat([book, book.new_zeros(entries - len(book), book.shape[1])])
    for _ in range(ROUNDS):
        nearest = assign(sample, book)
        counts = torch.zeros(entries).index_add_(0, nearest, torch.ones(len(sample)))
        sums = torch.zeros_like(book).index_add_(0, nearest, sample)
        # An entry that nothing is near to stays where it is.
        book = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], book)
    return book


def assign(pieces: torch.Tensor, book: torch.Tensor) -> torch.Tensor:
    """Return the index of the nearest entry for each piece."""
    lengths = (book * book).sum(dim=1)
    return torch.cat([(lengths - 2 * part @ book.T).argmin(dim=1) for part in torch.split(pieces, AT_ONCE)])
