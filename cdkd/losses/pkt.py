"""PKT, probabilistic knowledge transfer: the same neighbours in a batch, with the same probabilities."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32


def probabilistic_transfer(student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
    """Divergence of the probabilities of a batch's images as each other's neighbours.

        u = e / (‖e‖₂ + 1e-7),   c_ij = (u_i · u_j + 1) / 2,   p_ij = c_ij / Σ_j c_ij
        PKT = (1/B²) Σ_ij p^t_ij log((p^t_ij + 1e-7) / (p^s_ij + 1e-7))

    student_pooled: [B, D_s]; teacher_pooled: [B, D_t]; D may differ. A batch of one gives 0. An all-zero
    feature has zero gradient, where the released code's is NaN.

    RepDistiller's form of the authors' code; its weight is 30000, and the mean over B² makes the value small.

    Source: Passalis and Tefas, 1803.10837; RepDistiller, `distiller_zoo/PKT.py`.
    """
    student, teacher = neighbours(student_pooled), neighbours(teacher_pooled.detach())
    return divergence(student, teacher)


def neighbours(pooled: Tensor) -> Tensor:
    """[B, D] to probabilities [B, B], each row of which sums to 1."""
    pooled = at_least_float32(pooled)
    norm = torch.linalg.vector_norm(pooled, dim=1, keepdim=True)
    above = norm > 1e-12  # below, the direction means nothing and its gradient would be 1e7 times too large
    unit = torch.where(above, pooled / (torch.where(above, norm, 1.0) + 1e-7), pooled.detach() / 1e-7)
    similarity = (unit @ unit.mT + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Two [B, B] of probabilities to a scalar."""
    return (teacher * ((teacher + 1e-7) / (student + 1e-7)).log()).mean()


class ProbabilisticTransfer(Loss):
    """The pooled features."""

    needs = Needs.POOLED
    across_ranks = "gathered"

    @property
    def part_key(self) -> Hashable:
        return "neighbours"

    def teacher_part(self, teacher: Features) -> Tensor:
        return neighbours(teacher.pooled.detach())

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        return divergence(neighbours(student.pooled), self.teacher_part(teacher) if part is None else part)
