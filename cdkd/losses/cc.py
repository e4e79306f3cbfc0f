"""CC, correlation congruence: relations between the embeddings of a batch's images, like the teacher's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, l2_normalise

if TYPE_CHECKING:
    from typing import Literal

    from pydantic import PositiveInt


def correlation_congruence(
    student_embedding: Tensor, teacher_embedding: Tensor, form: Literal["released", "paper"] = "released"
) -> Tensor:
    """Difference of the embeddings' relations.

        released: δ = |e_s − e_t|,   CC = mean_{i<B} Σ_d δ_{i,d} δ_{i+1,d}
        paper:    k(x, y) = Σ_{p=0..2} exp(−2γ) (2γ)^p / p! (x·y)^p with x, y of length 1 and γ = 0.4,
                  CC = (1/B²) Σ_ij (k(e_s,i, e_s,j) − k(e_t,i, e_t,j))²

    student_embedding, teacher_embedding: [B, D], learned embeddings of the pooled features. The gradient goes
    to both: the teacher's embedding is trained too. A batch of one has no relations: 0, with zero gradient.

    The released form is a product of neighbouring images' distances to the teacher, so it depends on the
    order of the batch. The paper compares kernel matrices, a Gaussian's expanded to the second order. The
    forms have different scales; the weight 0.02 belongs to the released one.

    Source: Peng et al., Correlation Congruence for Knowledge Distillation, 1904.01802; RepDistiller,
    `distiller_zoo/CC.py`, by its authors' code.
    """
    student, teacher = at_least_float32(student_embedding), at_least_float32(teacher_embedding)
    if form == "paper":
        return (_kernel(student) - _kernel(teacher)).square().mean()
    distances = (student - teacher).abs()
    return (distances[:-1] * distances[1:]).sum() / max(len(student) - 1, 1)


def _kernel(embedding: Tensor, gamma: float = 0.4) -> Tensor:
    """[B, D] to [B, B]."""
    unit = l2_normalise(embedding, 1)
    cosines = unit @ unit.mT
    powers = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosines**p for p in range(3)]
    return torch.stack(powers).sum(0)


class CorrelationCongruence(Loss):
    """Linear embeddings of the pooled features, one for each network; both are trained."""

    needs = Needs.POOLED
    across_ranks = "gathered"

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        dimension: PositiveInt = 128,
        form: Literal["released", "paper"] = "released",
    ) -> None:
        super().__init__(student, teacher)
        self.embed_student = nn.Linear(student.pooled.shape[1], dimension)
        self.embed_teacher = nn.Linear(teacher.pooled.shape[1], dimension)
        self.form: Literal["released", "paper"] = form

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        return correlation_congruence(
            self.embed_student(at_least_float32(student.pooled)),
            self.embed_teacher(at_least_float32(teacher.pooled.detach())),
            self.form,
        )
