"""Losses that several tasks train with."""

import torch
import torch.nn.functional as F


def softened_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL of softened classes, mean over rows `[rows, classes]`, times T² (Hinton et al., arXiv 1503.02531)."""
    wanted = F.log_softmax(teacher / temperature, dim=-1)
    found = F.log_softmax(student / temperature, dim=-1)
    return F.kl_div(found, wanted, log_target=True, reduction="batchmean") * temperature**2


def softened_kl_of_tokens(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return `softened_kl` of logits `[batch, length, classes]`, over the tokens where `mask` `[batch, length]` is."""
    real = mask.bool()
    return softened_kl(student[real], teacher[real], temperature)


def cosine_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return 1 less the cosine, mean over rows `[rows, width]`."""
    return 1.0 - F.cosine_similarity(student, teacher, dim=-1).mean()


def relative_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error over the teacher's mean square: 1 is the error of answering 0."""
    return F.mse_loss(student, teacher) / teacher.pow(2).mean().clamp(min=1e-12)


def order_loss(similarity: torch.Tensor, score: torch.Tensor, scale: float = 20.0) -> torch.Tensor:
    """Punish every two pairs whose similarities `[pairs]` stand in the other order than their scores.

    log(1 + Σ exp(scale · (sᵢ − sⱼ))) over all i, j with scoreᵢ < scoreⱼ (Su's CoSENT): the scale of the scores does
    not matter, so that data of 0..5 and of 0..1 train alike.
    """
    wrong = scale * (similarity[:, None] - similarity[None, :])
    counted = wrong[score[:, None] < score[None, :]]
    return torch.cat([counted.new_zeros(1), counted]).logsumexp(dim=0)


def similarity_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of the cosine similarities between all rows `[rows, width]`.

    Of a batch of embeddings (Park et al., arXiv 1904.05068); 0 where there is one row alone.
    """
    found, wanted = (F.normalize(rows, dim=-1) @ F.normalize(rows, dim=-1).T for rows in (student, teacher))
    n = len(found)
    return (found - wanted).square().sum() / max(1, n * (n - 1))
