"""Logits of two networks: softened probabilities and their divergence."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.losses.base import at_least_float32


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """temperature² · KL(teacher ‖ student) of each row: [B, K] and [B, K] to [B].

    Exact where a probability underflows. No gradient enters the teacher.
    """
    log_student = functional.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    log_teacher = functional.log_softmax(at_least_float32(teacher_logits.detach()) / temperature, dim=1)
    return temperature**2 * functional.kl_div(
        log_student, log_teacher, reduction="none", log_target=True
    ).sum(1)


def require_equal_classes(loss: str, student: Features, teacher: Features) -> None:
    """Raises BadParams where the networks have different numbers of classes; `loss` is named there."""
    ours, theirs = student.logits.shape[1], teacher.logits.shape[1]
    if ours != theirs:
        raise BadParams(
            f"{loss}: the student has {ours} classes and the teacher {theirs}; logits cannot be compared"
        )
