"""RKD, relational KD: distances and angles between the images of a batch, like the teacher's."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, l2_normalise

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat


def relational_kd(
    student_pooled: Tensor, teacher_pooled: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """Differences of the pooled features' geometry.

        d_ij = sqrt(max(‖e_i − e_j‖², 1e-12)), d_ii = 0, divided by the mean of its positive entries, for
               student and teacher separately
        u_ij = (e_j − e_i) / max(‖e_j − e_i‖, 1e-12),   A_ijk = u_ij · u_ik
        RKD  = distance_weight · mean_{ij} h(d^s − d^t) + angle_weight · mean_{ijk} h(A^s − A^t)
        h(x) = x²/2 where |x| < 1, else |x| − ½

    student_pooled: [B, D_s], teacher_pooled: [B, D_t]; D may differ. Means over all B² and B³ entries, the
    zeros with equal indices included; the student's mean distance is differentiated. A batch of one has no
    relations: 0, with zero gradient. Memory is B²·D and B³.

    Features are not normalised, as released. The released code takes distances from the Gram matrix, which is
    wrong by up to 207 % for near duplicates; here they come from the differences. The paper sums over
    distinct pairs and triples. Its weights are 1 and 2, for metric learning; 25 and 50 are RepDistiller's,
    for classification. The row "RKD" in CD's table is Residual KD, another method.

    Source: Park et al., 1904.05068, and the authors' RKD repository; RepDistiller, `distiller_zoo/RKD.py`.
    """
    return difference(student_pooled, relations(teacher_pooled.detach()), distance_weight, angle_weight)


def difference(
    student_pooled: Tensor, teacher: tuple[Tensor, Tensor], distance_weight: float, angle_weight: float
) -> Tensor:
    """From the student's pooled features and the teacher's `relations`."""
    if len(student_pooled) < 2:
        return at_least_float32(student_pooled)[:0].sum()
    distances, angles = relations(student_pooled)
    distance = functional.smooth_l1_loss(distances, teacher[0])
    angle = functional.smooth_l1_loss(angles, teacher[1])
    return distance_weight * distance + angle_weight * angle


def relations(pooled: Tensor) -> tuple[Tensor, Tensor]:
    """[B, D] to normalised distances [B, B] and cosines of angles [B, B, B]."""
    pooled = at_least_float32(pooled)
    batch = len(pooled)
    differences = pooled[None] - pooled[:, None]
    # the clamp comes before the root, whose slope at 0 is infinite
    distances = differences.square().sum(2).clamp(min=1e-12).sqrt() * (
        1 - torch.eye(batch, dtype=pooled.dtype, device=pooled.device)
    )
    # the clamp has left every entry off the diagonal positive
    mean = distances.sum() / (batch * (batch - 1))
    directions = l2_normalise(differences, 2)
    return distances / mean, directions @ directions.mT


class RelationalKD(Loss):
    """The pooled features."""

    needs = Needs.POOLED
    across_ranks = "gathered"

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        distance_weight: NonNegativeFloat = 25.0,
        angle_weight: NonNegativeFloat = 50.0,
    ) -> None:
        super().__init__(student, teacher)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    @property
    def part_key(self) -> Hashable:
        return "relations"

    def teacher_part(self, teacher: Features) -> tuple[Tensor, Tensor]:
        return relations(teacher.pooled.detach())

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        expected = self.teacher_part(teacher) if part is None else part
        return difference(student.pooled, expected, self.distance_weight, self.angle_weight)
