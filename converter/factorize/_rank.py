"""Low-rank factors that keep what flows through a layer, not what its weights look like.

SVD-LLM (Wang et al., arXiv 2403.07378): with `S` the Cholesky factor of the inputs' second moment, the truncated SVD of
`W S` is the best rank-r approximation of the layer's *output*.
"""

import torch

FLOOR = 1e-4
"""Added to the moment's diagonal, over its mean: directions absent from the text must still be distinguished."""


def factor_rows(rows: torch.Tensor, weights: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `[n, rank]` and `[rank, width]` whose product is nearest to `rows`, each row counted `weights` times."""
    moment = (rows * (weights / weights.sum())[:, None]).double().T @ rows.double()
    # Directions of a table with orthonormal columns are the eigenvectors of its weighted moment.
    _, vectors = torch.linalg.eigh(moment + FLOOR * moment.diagonal().mean() * torch.eye(len(moment)))
    wide = vectors[:, -rank:].flip(1).float()
    return rows @ wide, wide.T.contiguous()


def factor_linear(weight: torch.Tensor, moment: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Factor `weight [out, in]` for inputs of second moment `moment [in, in]`.

    Returns `[rank, in]`, `[out, rank]`, and the share of the output's squared size that is lost.
    """
    moment = moment.double() + FLOOR * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    root = torch.linalg.cholesky(moment)
    left, sizes, right = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    half = sizes[:rank].sqrt()
    first = torch.linalg.solve_triangular(root, half[:, None] * right[:rank], upper=False, left=False)
    lost = float(sizes[rank:].pow(2).sum() / sizes.pow(2).sum())
    return first.float().contiguous(), (left[:, :rank] * half).float().contiguous(), lost
