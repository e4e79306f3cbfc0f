"""AT, attention transfer: where each stage is active, like the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, l2_normalise

if TYPE_CHECKING:
    from typing import Literal


def attention_transfer(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    form: Literal["released", "paper"] = "released",
) -> Tensor:
    """Difference of the normalised attention maps.

        Q(f) = a / max(‖a‖₂, 1e-12),   a = vec(mean_c f²), one vector of H·W per image
        released: Σ_l mean_{b,hw} (Q(f_s^l) − Q(f_t^l))²
        paper:    Σ_l ½ mean_b ‖Q(f_s^l) − Q(f_t^l)‖₂

    student_maps, teacher_maps: as many of each, [B, C, H, W]; channels may differ. Where sizes differ the larger map is
    average-pooled to the smaller, by a whole ratio. An all-zero map has zero gradient.

    The forms have different scales: the released one averages squares over H·W, so a stage of 8×8 counts 16 times as
    much as one of 32×32, while the paper's norm is between 0 and √2 whatever the size. The weight 1000 belongs to the
    released form. The paper's form writes a sum over the batch's images into the weight; here it is a mean.

    Source: Zagoruyko and Komodakis, 1612.03928, equation 2; szagoruyko/attention-transfer, `utils.py`; RepDistiller,
    `distiller_zoo/AT.py`.
    """
    terms = []
    for ours, theirs in zip(student_maps, teacher_maps, strict=True):
        size = matched_size(ours, theirs)
        difference = _attention(ours, size) - _attention(theirs.detach(), size)
        terms.append(
            torch.linalg.vector_norm(difference, dim=1).mean() / 2
            if form == "paper"
            else difference.square().mean()
        )
    return torch.stack(terms).sum()


def _attention(features: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, H, W] to [B, h·w]: Q of the map pooled to `size`."""
    features = at_least_float32(features)
    height, width = features.shape[2:]
    if (height, width) != size:
        features = functional.avg_pool2d(features, (height // size[0], width // size[1]))
    return l2_normalise(features.square().mean(1).flatten(1), 1)


def matched_size(student_map: Tensor, teacher_map: Tensor) -> tuple[int, int]:
    """The size to pool both to, which is the smaller one. The ratio must be whole: adaptive pooling has no deterministic backward on CUDA."""
    ours, theirs = student_map.shape[2:], teacher_map.shape[2:]
    small, large = sorted((tuple(ours), tuple(theirs)))
    if large[0] % small[0] or large[1] % small[1]:
        raise BadParams(
            f"at: a map of {ours[0]}×{ours[1]} in the student and {theirs[0]}×{theirs[1]} in the teacher; expected one to be a multiple of the other"
        )
    return small[0], small[1]


class AttentionTransfer(Loss):
    """All stages."""

    needs = Needs.MAPS

    def __init__(
        self, student: Features, teacher: Features, *, form: Literal["released", "paper"] = "released"
    ) -> None:
        super().__init__(student, teacher)
        if len(student.maps) != len(teacher.maps):
            raise BadParams(
                f"at: the student has {len(student.maps)} stages and the teacher {len(teacher.maps)}; expected as many of each"
            )
        for ours, theirs in zip(student.maps, teacher.maps, strict=True):
            matched_size(ours, theirs)
        self.form = form

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        return attention_transfer(student.maps, teacher.maps, self.form)
