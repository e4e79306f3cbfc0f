"""ReviewKD: each level of the student, fused with the deeper ones, agrees with the teacher's map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, mean_squared_error
from cdkd.losses.connectors import conv_bn
from cdkd.losses.pooling import Size, pool
from cdkd.losses.stages import paired, preactivations

if TYPE_CHECKING:
    from pydantic import PositiveInt


def hierarchical_context(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared error of two maps and of their average-pooled copies: the loss of one level.

        sides = those of 4, 2, 1 that are smaller than H,   a_k = 2^−k for the k-th of them, from k = 1
        P_k = average pooling to sides_k × sides_k
        HCL = [mean (f_s − f_t)² + Σ_k a_k mean (P_k f_s − P_k f_t)²] / (1 + Σ_k a_k)

    student_map (fused and brought to the teacher's shape), teacher_map: [B, C, H, W]. A map of 4 or less uses
    fewer pools, with the same factors from ½ on; a map of 1 none. Levels are summed outside.

    Source: Chen et al., Distilling Knowledge via Knowledge Review, 2104.09044; dvlab-research/ReviewKD;
    mdistiller, `distillers/ReviewKD.py`.
    """
    teacher_map = teacher_map.detach()
    height, width = student_map.shape[2:]
    sizes = [(height, width), *((side, side) for side in (4, 2, 1) if side < height)]
    factors = [2.0**-k for k in range(len(sizes))]
    errors = [mean_squared_error(pool(student_map, size), pool(teacher_map, size)) for size in sizes]
    weighted = [factor * error for factor, error in zip(factors, errors, strict=True)]
    return torch.stack(weighted).sum() / sum(factors)


class HierarchicalContext(Loss):
    """All stages and the pooled features, as maps of 1×1; the teacher's maps are those before the activation.

    From the deepest level up, each is fused with the one below. The released warm-up of 20 epochs is `rise:
    20, rise_curve: linear, rise_from: 0` of its weight.
    """

    needs = Needs.POOLED | Needs.PREACTIVATION

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        stages: list[tuple[PositiveInt, PositiveInt]] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.pairs = paired("reviewkd", len(student.maps), len(preactivations("reviewkd", teacher)), stages)
        own, other = self._levels(student), self._targets(teacher)
        middle = min(512, student.pooled.shape[1])
        self.fusions = nn.ModuleList(
            Fusion(ours.shape[1], middle, theirs.shape[1], deepest=level == 0)
            for level, (ours, theirs) in enumerate(zip(own, other, strict=True))
        )

    def _levels(self, student: Features) -> list[Tensor]:
        """The student's maps, deepest first."""
        stages = [student.maps[ours] for ours, _ in reversed(self.pairs)]
        return [at_least_float32(one) for one in (student.pooled[:, :, None, None], *stages)]

    def _targets(self, teacher: Features) -> list[Tensor]:
        """The teacher's maps, deepest first."""
        maps = preactivations("reviewkd", teacher)
        return [teacher.pooled[:, :, None, None], *(maps[theirs] for _, theirs in reversed(self.pairs))]

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        values, below = [], None
        for own, target, fuse in zip(
            self._levels(student), self._targets(teacher), self.fusions, strict=True
        ):
            below, found = fuse(own, below, (target.shape[2], target.shape[3]))
            values.append(hierarchical_context(found, target))
        return torch.stack(values).sum()


class Fusion(nn.Module):
    """One level of the student together with the one below it, at the teacher's shape.

        x = conv1x1-BN(f);   a = sigmoid(conv1x1([x, y])), two channels, y = the level below at the size of f
        x ← a₁ x + a₂ y, where there is a level below;   x at the teacher's size;   output = conv3x3-BN(x)

    Maps are enlarged by repetition. Convolutions but the gate's are drawn from Kaiming's uniform with a = 1.

    Source: dvlab-research/ReviewKD, where it is called ABF.
    """

    def __init__(self, channels: int, middle: int, out: int, *, deepest: bool) -> None:
        super().__init__()
        self.enter = conv_bn(channels, middle)
        self.leave = conv_bn(middle, out, 3)
        self.gate = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        for layer in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(layer.get_parameter("weight"), a=1)

    def forward(self, features: Tensor, below: Tensor | None, size: Size) -> tuple[Tensor, Tensor]:
        """The level [B, middle, *size], for the one above, and the output [B, out, *size]."""
        x = self.enter(features)
        if self.gate is not None and below is not None:
            y = functional.interpolate(below, x.shape[2:], mode="nearest")
            shares = self.gate(torch.cat([x, y], dim=1)).sigmoid()
            x = x * shares[:, :1] + y * shares[:, 1:]
        if x.shape[2:] != size:
            x = functional.interpolate(x, size, mode="nearest")
        return x, self.leave(x)
