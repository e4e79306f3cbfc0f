"""AB, activation boundaries: a neuron is active in the student where it is active in the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32
from cdkd.losses.connectors import regressor
from cdkd.losses.stages import paired, preactivations

if TYPE_CHECKING:
    from pydantic import PositiveInt


def activation_boundaries(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Squared hinge, with margin 1, of the student's neurons on the teacher's side of zero.

        d(s, t) = (s + 1)² where t ≤ 0 and s > −1;   (s − 1)² where t > 0 and s ≤ 1;   else 0
        AB = (3/1000) (1/B) Σ_{l=0..n−1} 2^{l−n+1} Σ_{b,c,h,w} d(f_s^l, f_t^l)

    student_maps (connectors already applied), teacher_maps: n of each, [B, C, H, W], before the last
    activation of their stages. The last stage counts once, the one before it half, and so on. Sums, not
    means, over a map.

    RepDistiller trains with this loss alone for 30 epochs and then without it: see `stop` of a weight. Paper
    and released code agree.

    Source: Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons,
    1811.03233; RepDistiller, `distiller_zoo/AB.py`.
    """
    last = len(student_maps) - 1
    stages = [
        2.0 ** (stage - last) * _hinge(at_least_float32(ours), theirs.detach()).sum() / len(ours)
        for stage, (ours, theirs) in enumerate(zip(student_maps, teacher_maps, strict=True))
    ]
    return torch.stack(stages).sum() * 3 / 1000


def _hinge(student: Tensor, teacher: Tensor) -> Tensor:
    side = torch.where(teacher > 0, -1.0, 1.0)
    return (1 + side * student).clamp(min=0).square()


class ActivationBoundaries(Loss):
    """All stages, or some, before the last activation.

    Where shapes differ the student has a connector without a ReLU.

    stages: pairs such as [2, 3], the student's stage and the teacher's, counted from 1; without it all, and
        the last ones of a network that has more.
    """

    needs = Needs.PREACTIVATION

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        stages: list[tuple[PositiveInt, PositiveInt]] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        own, other = preactivations("ab", student), preactivations("ab", teacher)
        self.pairs = paired("ab", len(own), len(other), stages)
        self.connectors = nn.ModuleList(_connector(own[ours], other[theirs]) for ours, theirs in self.pairs)

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        own, other = preactivations("ab", student), preactivations("ab", teacher)
        maps = [
            connect(at_least_float32(own[ours]))
            for (ours, _), connect in zip(self.pairs, self.connectors, strict=True)
        ]
        return activation_boundaries(maps, [other[theirs] for _, theirs in self.pairs])


def _connector(student: Tensor, teacher: Tensor) -> nn.Module:
    return nn.Identity() if student.shape[1:] == teacher.shape[1:] else regressor("ab", student, teacher)
