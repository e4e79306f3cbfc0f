"""KD: the teacher's softened probabilities as targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss
from cdkd.losses.logits import require_equal_classes, softened_kl

if TYPE_CHECKING:
    from pydantic import PositiveFloat


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's softened probabilities from the teacher's.

        KD = temperature² · (1/B) Σ_b KL(softmax(z_t,b / temperature) ‖ softmax(z_s,b / temperature))

    student_logits, teacher_logits: [B, K]. Sum over classes, mean over the batch: a mean over B·K would be K
    times smaller. The gradient in z_s is temperature · (softmax(z_s / temperature) − softmax(z_t /
    temperature)) / B.

    The paper minimises the soft cross-entropy, which has the same gradient. Released code differs in the
    factor: torchdistill drops temperature² where its alpha is 0 or None; KD_Lib's default is a squared error,
    not KD.

    Source: Hinton, Vinyals and Dean, 1503.02531; as in RepDistiller, `distiller_zoo/KD.py`.
    """
    return softened_kl(student_logits, teacher_logits, temperature).mean()


class KD(Loss):
    """See `kd`."""

    needs = Needs.LOGITS

    def __init__(self, student: Features, teacher: Features, *, temperature: PositiveFloat = 4.0) -> None:
        super().__init__(student, teacher)
        require_equal_classes("kd", student, teacher)
        self.temperature = temperature

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        return kd(student.logits, teacher.logits, self.temperature)
