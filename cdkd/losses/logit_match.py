"""Logit matching: a student's logits are drawn to those of a network that trains together with it (CTKD)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32
from cdkd.losses.logits import require_equal_classes


def logit_match(student_logits: Tensor, teacher_logits: Tensor, nominal_batch: int) -> Tensor:
    """Squared distance of the logits.

        (1 / B₀) Σ_b Σ_k (sg[z_t] − z_s)²

    student_logits, teacher_logits: [B, K]; nominal_batch: B₀, the recipe's batch. The released code divides
    by it also where a batch is smaller. sg: no gradient enters the teacher.

    Source: Zhou et al., Rocket Launching, 1708.04106; HaoranZhao1988/CTKD, `train.py`.
    """
    difference = at_least_float32(teacher_logits.detach()) - at_least_float32(student_logits)
    return difference.square().sum() / nominal_batch


class LogitMatch(Loss):
    needs = Needs.LOGITS
    across_ranks = "gathered"  # a sum with a divisor of its own, not a mean

    def __init__(self, student: Features, teacher: Features, *, data: DataInfo) -> None:
        super().__init__(student, teacher)
        require_equal_classes("logit_match", student, teacher)
        self.nominal_batch = data.batch

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        return logit_match(student.logits, teacher.logits, self.nominal_batch)
