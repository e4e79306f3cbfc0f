"""VID, variational information distillation: the student predicts the teacher's maps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, mean_over
from cdkd.losses.pooling import pool_to_match
from cdkd.losses.stages import paired

if TYPE_CHECKING:
    from pydantic import PositiveInt

FIRST_VARIANCE, LEAST_VARIANCE = 5.0, 1e-5


def variational_information(mean: Tensor, teacher_map: Tensor, variance: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's map under a Gaussian, without its constant.

        VID = mean_{b,c,h,w} ½ ((μ − f_t)² / v_c + log v_c)

    mean: [B, C, H, W], what the student predicts through a regressor; teacher_map: [B, C, H, W]; variance:
    [C], above 0. The gradient goes to mean and variance. Negative where the prediction is good and the
    variance small.

    Paper and RepDistiller agree. mdistiller's variance is never trained: it stays at its first value, 5.

    Source: Ahn et al., Variational Information Distillation for Knowledge Transfer, 1904.05835; RepDistiller,
    `distiller_zoo/VID.py`.
    """
    error = (at_least_float32(mean) - at_least_float32(teacher_map.detach())).square()
    v = at_least_float32(variance)
    return (mean_over(error, (0, 2, 3)) / v + v.log()).mean() / 2


class VariationalInformation(Loss):
    """All stages. The larger map of a pair is average-pooled to the smaller.

    A regressor, three 1×1 convolutions without bias and a ReLU between them, and a variance are trained for
    each stage. The variance is softplus(ρ) + 1e-5, which is 5 at first; log(1 + exp(ρ)), as released,
    overflows where ρ is large.
    """

    needs = Needs.MAPS

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        stages: list[tuple[PositiveInt, PositiveInt]] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.pairs = paired("vid", len(student.maps), len(teacher.maps), stages)
        channels = [
            (student.maps[ours].shape[1], teacher.maps[theirs].shape[1]) for ours, theirs in self.pairs
        ]
        self.regressors = nn.ModuleList(_regressor(*pair) for pair in channels)
        first = math.log(math.expm1(FIRST_VARIANCE - LEAST_VARIANCE))
        self.raw_variances = nn.ParameterList(torch.full((out,), first) for _, out in channels)

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        values = []
        for (ours, theirs), regress, raw in zip(self.pairs, self.regressors, self.raw_variances, strict=True):
            own, target = pool_to_match(student.maps[ours], teacher.maps[theirs].detach())
            variance = functional.softplus(raw) + LEAST_VARIANCE
            values.append(variational_information(regress(own), target, variance))
        return torch.stack(values).sum()


def _regressor(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(out, out, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(out, out, 1, bias=False),
    )
