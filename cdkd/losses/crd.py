"""CRD, contrastive representation distillation: the two embeddings of an image are alike, others are not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cdkd.losses.base import at_least_float32, l2_normalise


def contrastive_representation(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    indices: Tensor,
    temperature: float = 0.07,
    momentum: float = 0.5,
    normalisers: tuple[Tensor | float, Tensor | float] | None = None,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Noise-contrastive estimation against banks of the training set's embeddings, on both sides.

        s_bj = v_b · m_j / temperature for the bank's rows j in indices_b
        P_bj = exp(s_bj) / Z,   c = negatives / N
        side = −(1/B) Σ_b [log(P_b,own / (P_b,own + c + 1e-7)) + Σ_{j negative} log(c / (P_bj + c + 1e-7))]
        CRD  = side(student's embedding, teacher's bank) + side(teacher's embedding, student's bank)
        Z    = mean_{b,j} exp(s_bj) · N of the batch where no normalisers are given; no gradient

    student_embedding, teacher_embedding: [B, D], rows of length 1; student_bank, teacher_bank: [N, D], one
    row an image of the training set; indices: [B, 1 + negatives] int64, the image's own place first, own
    places distinct; normalisers: the student's and the teacher's Z, which the method fixes at its first
    batch. The gradient goes to both embeddings, not to the banks.

    Returns the loss, the two banks after this batch (row ← momentum · row + (1 − momentum) · embedding, at
    length 1; the given ones stay as they are) and the normalisers.

    Paper and released code agree on the loss. Z depends on the first batch and so on the seed.

    Source: Tian, Krishnan and Isola, Contrastive Representation Distillation, 1910.10699; RepDistiller,
    `crd/`.
    """
    student, teacher = at_least_float32(student_embedding), at_least_float32(teacher_embedding)
    scores = (
        compare(student, teacher_bank, indices) / temperature,
        compare(teacher, student_bank, indices) / temperature,
    )
    rows = len(student_bank)
    first, second = (normaliser(side, rows) for side in scores) if normalisers is None else normalisers
    fixed = torch.as_tensor(first).to(student), torch.as_tensor(second).to(student)
    loss = one_side(scores[0], fixed[0], rows) + one_side(scores[1], fixed[1], rows)
    own = indices[:, 0]
    return (
        loss,
        student_bank.index_copy(0, own, moved(student_bank, own, student, momentum)),
        teacher_bank.index_copy(0, own, moved(teacher_bank, own, teacher, momentum)),
        fixed,
    )


def compare(embedding: Tensor, bank: Tensor, indices: Tensor) -> Tensor:
    """[B, D], [N, D] and [B, M] to products [B, M].

    All N products an image cost less time and memory than a copy of M rows for each.
    """
    return (embedding @ bank.detach().to(embedding).mT).gather(1, indices)


def normaliser(scores: Tensor, rows: int) -> Tensor:
    return scores.detach().exp().mean() * rows


def one_side(scores: Tensor, z: Tensor, rows: int) -> Tensor:
    """Scores [B, 1 + negatives], own first, to a scalar."""
    noise = (scores.shape[1] - 1) / rows
    logarithm = scores - z.log()
    denominator = (logarithm.exp() + noise + 1e-7).log()
    own = logarithm[:, 0] - denominator[:, 0]
    negatives = ((math.log(noise) if noise else 0.0) - denominator[:, 1:]).sum(1)
    return -(own + negatives).mean()


def moved(bank: Tensor, own: Tensor, embedding: Tensor, momentum: float) -> Tensor:
    """The bank's rows `own` [B, D] after this batch."""
    rows = momentum * bank.detach()[own] + (1 - momentum) * embedding.detach().to(bank)
    return l2_normalise(rows, 1)
