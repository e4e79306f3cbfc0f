"""NST, neuron selectivity transfer: the channels of a map are distributed as the teacher's are."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, by_positions, channel_products, l2_normalise
from cdkd.losses.pooling import Size, pool, smaller_size
from cdkd.losses.stages import paired

if TYPE_CHECKING:
    from pydantic import PositiveInt


def neuron_selectivity(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Maximum mean discrepancy of the channels, with the kernel k(a, b) = (a·b)².

        a = a channel's map as a vector of H·W, divided by max(‖a‖₂, 1e-12)
        NST = mean_{b,i,j} k(t_i, t_j) + mean_{b,i,j} k(s_i, s_j) − 2 mean_{b,i,j} k(s_i, t_j)

    student_map: [B, C_s, H_s, W_s]; teacher_map: [B, C_t, H_t, W_t]. The larger map is average-pooled to the
    smaller. A dead channel has zero gradient.

    RepDistiller's weight is 50, over all stages. The authors' MXNet code also leaves the teacher's BatchNorm
    in training mode.

    Source: Huang and Wang, Like What You Like, 1707.01219; RepDistiller, `distiller_zoo/NST.py`.
    """
    size = smaller_size(student_map, teacher_map)
    student, teacher = directions(student_map, size), directions(teacher_map.detach(), size)
    return discrepancy(student, teacher, kernel(teacher, teacher))


def directions(features: Tensor, size: Size) -> Tensor:
    """[B, C, H, W] to [B, h·w, C]: each channel of the map pooled to `size`, at length 1."""
    return l2_normalise(by_positions(pool(features, size)), 1)


def kernel(first: Tensor, second: Tensor) -> Tensor:
    """[B, h·w, C_1] and [B, h·w, C_2] to the mean of the kernel over images and pairs of channels."""
    return channel_products(first, second).square().mean()


def discrepancy(student: Tensor, teacher: Tensor, teacher_kernel: Tensor) -> Tensor:
    """From `directions` of both and the teacher's own `kernel`."""
    return teacher_kernel + kernel(student, student) - 2 * kernel(student, teacher)


class NeuronSelectivity(Loss):
    """All stages."""

    needs = Needs.MAPS

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        stages: list[tuple[PositiveInt, PositiveInt]] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.pairs = paired("nst", len(student.maps), len(teacher.maps), stages)
        self.sizes = [smaller_size(student.maps[ours], teacher.maps[theirs]) for ours, theirs in self.pairs]

    @property
    def part_key(self) -> Hashable:
        return tuple((theirs, size) for (_, theirs), size in zip(self.pairs, self.sizes, strict=True))

    def teacher_part(self, teacher: Features) -> list[tuple[Tensor, Tensor]]:
        """The directions and their kernel, stage by stage."""
        found = [
            directions(teacher.maps[theirs].detach(), size)
            for (_, theirs), size in zip(self.pairs, self.sizes, strict=True)
        ]
        return [(one, kernel(one, one)) for one in found]

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        expected = self.teacher_part(teacher) if part is None else part
        values = [
            discrepancy(directions(student.maps[ours], size), *theirs)
            for (ours, _), size, theirs in zip(self.pairs, self.sizes, expected, strict=True)
        ]
        return torch.stack(values).sum()
