"""SRRL, softmax regression representation learning: the student's map must serve the teacher's classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, channel_means
from cdkd.losses.connectors import conv_bn_relu, he_fan_out
from cdkd.losses.stages import last_map


def regressed_representation(
    student_logits: Tensor, teacher_logits: Tensor, student_pooled: Tensor, teacher_pooled: Tensor
) -> Tensor:
    """Squared errors of the logits and of the pooled features.

        SRRL = (1/(B·K)) Σ (z_s − z_t)² + (1/(B·D)) Σ (e_s − e_t)²

    student_logits: [B, K], the teacher's classifier applied to the student's pooled features behind a
    connector; teacher_logits: [B, K]; student_pooled: [B, D], those features; teacher_pooled: [B, D]. Both
    weights are 1.

    The second error is channel distillation of the last map alone.

    Source: Yang et al., Knowledge distillation via softmax regression representation learning, ICLR 2021;
    jingyang2017/KD_SRRL.
    """
    pairs = (student_logits, teacher_logits), (student_pooled, teacher_pooled)
    logits, pooled = (
        (at_least_float32(ours) - at_least_float32(theirs.detach())).square().mean() for ours, theirs in pairs
    )
    return logits + pooled


class RegressedRepresentation(Loss):
    """The student's last map goes through a connector, the average over it, and the teacher's classifier."""

    needs = Needs.LOGITS | Needs.POOLED | Needs.CLASSIFIER

    def __init__(self, student: Features, teacher: Features) -> None:
        super().__init__(student, teacher)
        own = last_map("srrl", student)
        self.connector = he_fan_out(conv_bn_relu(own.shape[1], teacher.pooled.shape[1]))

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        if teacher.classifier is None:
            raise BadParams(
                "srrl: a teacher without a linear classifier; expected one that gives its weights"
            )
        weight, bias = teacher.classifier
        pooled = channel_means(self.connector(at_least_float32(last_map("srrl", student))))
        logits = functional.linear(
            pooled, weight.detach().to(pooled), None if bias is None else bias.detach().to(pooled)
        )
        return regressed_representation(logits, teacher.logits, pooled, teacher.pooled)
