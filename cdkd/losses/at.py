"""AT, attention transfer: each stage is active at the same positions as the teacher's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, l2_normalise, mean_over
from cdkd.losses.pooling import Size, pool, smaller_size
from cdkd.losses.stages import paired

if TYPE_CHECKING:
    from typing import Literal

    from pydantic import PositiveInt


def attention_transfer(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    form: Literal["released", "paper"] = "released",
) -> Tensor:
    """Difference of the normalised attention maps.

        Q(f) = a / max(‖a‖₂, 1e-12),   a = vec(mean_c f²), one vector of H·W per image
        released: Σ_l mean_{b,hw} (Q(f_s^l) − Q(f_t^l))²
        paper:    Σ_l ½ mean_b ‖Q(f_s^l) − Q(f_t^l)‖₂

    student_maps, teacher_maps: as many of each, [B, C, H, W]; channels may differ. The larger map of a pair
    is average-pooled to the smaller. An all-zero map has zero gradient.

    The forms have different scales. The released one averages squares over H·W, so that a stage of 8×8 counts
    16 times as much as one of 32×32; the paper's norm is between 0 and √2 for any size. The weight 1000
    belongs to the released form. The paper sums over the images of a batch; the paper's form here is a mean.

    Source: Zagoruyko and Komodakis, 1612.03928, equation 2; szagoruyko/attention-transfer, `utils.py`;
    RepDistiller, `distiller_zoo/AT.py`.
    """
    pairs = list(zip(student_maps, teacher_maps, strict=True))
    sizes = [smaller_size(ours, theirs) for ours, theirs in pairs]
    return difference(
        [attention(ours, size) for (ours, _), size in zip(pairs, sizes, strict=True)],
        [attention(theirs.detach(), size) for (_, theirs), size in zip(pairs, sizes, strict=True)],
        form,
    )


def attention(features: Tensor, size: Size) -> Tensor:
    """[B, C, H, W] to [B, h·w]: Q of the map pooled to `size`."""
    return l2_normalise(mean_over(pool(features, size).square(), 1).flatten(1), 1)


def difference(student: Sequence[Tensor], teacher: Sequence[Tensor], form: str) -> Tensor:
    """From the attention of all stages on both sides."""
    gaps = [ours - theirs for ours, theirs in zip(student, teacher, strict=True)]
    if form == "paper":
        return torch.stack([torch.linalg.vector_norm(gap, dim=1).mean() / 2 for gap in gaps]).sum()
    return torch.stack([gap.square().mean() for gap in gaps]).sum()


class AttentionTransfer(Loss):
    """All stages, or some.

    stages: pairs such as [2, 3], the student's stage and the teacher's, counted from 1; without it all, and
        the last ones of a network that has more.
    """

    needs = Needs.MAPS

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        form: Literal["released", "paper"] = "released",
        stages: list[tuple[PositiveInt, PositiveInt]] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.pairs = paired("at", len(student.maps), len(teacher.maps), stages)
        self.sizes = [smaller_size(student.maps[ours], teacher.maps[theirs]) for ours, theirs in self.pairs]
        self.form = form

    @property
    def part_key(self) -> Hashable:
        return tuple((theirs, size) for (_, theirs), size in zip(self.pairs, self.sizes, strict=True))

    def teacher_part(self, teacher: Features) -> list[Tensor]:
        return [
            attention(teacher.maps[theirs].detach(), size)
            for (_, theirs), size in zip(self.pairs, self.sizes, strict=True)
        ]

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        expected = self.teacher_part(teacher) if part is None else part
        found = [
            attention(student.maps[ours], size)
            for (ours, _), size in zip(self.pairs, self.sizes, strict=True)
        ]
        return difference(found, expected, self.form)
