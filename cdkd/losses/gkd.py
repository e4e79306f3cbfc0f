"""GKD, guided KD: only the images that the teacher classifies correctly count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss
from cdkd.losses.logits import require_equal_classes, softened_kl

if TYPE_CHECKING:
    from pydantic import PositiveFloat


def guided_kd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """KD over the images that the teacher classifies correctly.

        m_b = 1 where argmax z_t,b = y_b, else 0
        GKD = temperature² · Σ_b m_b KL(softmax(z_t,b / temperature) ‖ softmax(z_s,b / temperature)) / Σ_b m_b

    student_logits, teacher_logits: [B, K]; labels: [B] int64. Sum over classes, mean over the kept images,
    not over B. No image kept: 0, with zero gradient. The values of a dropped row, even NaN, have no effect on
    value and gradient.

    The released code multiplies by the mask and then replaces every exact zero of the teacher by a one. That
    gives NaN where no image is kept, and a value several times too large where a kept image has a probability
    that underflows. Neither is reproduced here; everywhere else the values agree.

    Source: Zhou et al., Channel Distillation, 2006.01683; zhouzaida/channel-distillation,
    `losses/kd_loss.py`.
    """
    kept = teacher_logits.argmax(1) == labels
    # Dropped rows become equal logits before the softmax, so that they diverge by exactly 0 and no gradient
    # enters them. Selecting rows by the mask instead would wait for the device in every step.
    student, teacher = (
        torch.where(kept[:, None], logits, 0.0) for logits in (student_logits, teacher_logits)
    )
    return softened_kl(student, teacher, temperature).sum() / kept.sum().clamp(min=1)


class GuidedKD(Loss):
    """See `guided_kd`."""

    needs = Needs.LOGITS
    across_ranks = "gathered"  # its divisor counts the images kept of the whole batch

    def __init__(self, student: Features, teacher: Features, *, temperature: PositiveFloat = 1.0) -> None:
        super().__init__(student, teacher)
        require_equal_classes("gkd", student, teacher)
        self.temperature = temperature

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        return guided_kd(student.logits, teacher.logits, batch.labels, self.temperature)
