"""DKD, decoupled KD: the true class against all others, and the others among themselves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32
from cdkd.losses.logits import require_equal_classes

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat, PositiveFloat


def decoupled_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    target_weight: float = 1.0,
    nontarget_weight: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """KD in two parts, of which plain KD weighs the second by the teacher's doubt.

        p = softmax(z / T),   b = (p_y, 1 − p_y),   q = p without class y, divided by its sum
        DKD = T² · (1/B) Σ_b [target_weight · KL(b_t ‖ b_s) + nontarget_weight · KL(q_t ‖ q_s)]

    student_logits, teacher_logits: [B, K], K at least 2; labels: [B] int64. With two classes q is a single 1
    and the second part is 0. With weights 1 and 1 − p_t,y it would be KD.

    The released code takes log(1 − p_y) from the probability, which is infinite where p_y rounds to 1, and
    subtracts 1000 from the true class's logit; here both come from logarithms of sums and are exact.

    The weight of the second part is chosen for each pair of networks in the paper: 8, 6, 2, and 0.5 with T =
    1 on ImageNet.

    Source: Zhao et al., Decoupled Knowledge Distillation, 2203.08679; mdistiller, `distillers/DKD.py`.
    """
    target = labels[:, None] == torch.arange(student_logits.shape[1], device=labels.device)
    binary, others = _logarithms(at_least_float32(student_logits) / temperature, target)
    teacher_binary, teacher_others = _logarithms(
        at_least_float32(teacher_logits.detach()) / temperature, target
    )
    of_target = (teacher_binary.exp() * (teacher_binary - binary)).sum(1)
    q = teacher_others.exp().masked_fill(target, 0)
    of_nontarget = (q * (teacher_others - others)).sum(1)
    return temperature**2 * (target_weight * of_target + nontarget_weight * of_nontarget).mean()


def _logarithms(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [B, K] to log b [B, 2] and log q [B, K], where the true class's entry means nothing."""
    whole = scores.logsumexp(1, keepdim=True)
    rest = scores.masked_fill(target, -math.inf).logsumexp(1, keepdim=True)
    true = (scores * target).sum(1, keepdim=True)
    return torch.cat([true - whole, rest - whole], 1), scores - rest


class DecoupledKD(Loss):
    """The released warm-up of 20 epochs is `rise: 20, rise_curve: linear, rise_from: 1` of its weight."""

    needs = Needs.LOGITS

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        target_weight: NonNegativeFloat = 1.0,
        nontarget_weight: NonNegativeFloat = 8.0,
        temperature: PositiveFloat = 4.0,
    ) -> None:
        super().__init__(student, teacher)
        require_equal_classes("dkd", student, teacher)
        if student.logits.shape[1] < 2:
            raise BadParams("dkd: 1 class; expected at least 2")
        self.weights, self.temperature = (target_weight, nontarget_weight), temperature

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        return decoupled_kd(student.logits, teacher.logits, batch.labels, *self.weights, self.temperature)
