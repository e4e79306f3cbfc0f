"""SRRL, softmax regression representation learning: the student's map must serve the teacher's classifier."""

from __future__ import annotations

from torch import Tensor

from cdkd.losses.base import at_least_float32


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
