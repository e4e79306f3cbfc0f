"""ICKD, inter-channel correlation: how alike the channels of a map are to each other, like in the teacher."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32
from cdkd.losses.connectors import conv_bn
from cdkd.losses.stages import last_map

if TYPE_CHECKING:
    from typing import Literal

    from pydantic import PositiveInt


def inter_channel_correlation(
    student_map: Tensor,
    teacher_map: Tensor,
    form: Literal["cifar", "imagenet", "paper"] = "cifar",
    grid: int = 1,
) -> Tensor:
    """Squared difference of the correlations between the channels.

        F = f of one image reshaped to [C, H·W],   G = F Fᵀ
        Ĝ = G with each row divided by max(‖row‖₂, 1e-12)
        cifar:    (1/(B·C))  Σ_b Σ_ij (Ĝ_s − Ĝ_t)²_{b,i,j}
        imagenet: (1/(B²·C)) Σ_b Σ_ij (Ĝ_s − Ĝ_t)²_{b,i,j}
        paper:    (1/(B·C²)) Σ_b Σ_ij (G_s − G_t)²_{b,i,j}

    student_map (embedding already applied), teacher_map: [B, C, H, W]. H and W may differ. With `grid` n both
    maps are cut into n×n patches (bins of adaptive pooling where n does not divide a side), whose values are
    averaged; the student's map is resized to the teacher's size first (bilinear). Patches of one pixel give
    matrices of rank one.

    A channel whose row of G is below 1e-6 of the image's longest one is dead: dividing by its length would
    give a gradient up to 1e6 times that of another channel, so none flows there. The value is not changed.

    The forms are the released ones for CIFAR (weight 2.5 in its README, 4 in its script) and ImageNet (weight
    500), and the paper's formula, whose matrices are not normalised.

    Source: Liu et al., Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation,
    2202.03680; ADLab-AutoDrive/ICKD.
    """
    if grid > 1:
        student_map = _resized(student_map, teacher_map)
    theirs = correlations(teacher_map.detach(), form, grid)
    return difference(correlations(student_map, form, grid), theirs, form)


def correlations(features: Tensor, form: str, grid: int = 1) -> Tensor:
    """[B, C, H, W] to the matrices of all patches [grid², B, C, C]."""
    matrices = [
        patch.flatten(2) @ patch.flatten(2).mT for patch in _patches(at_least_float32(features), grid)
    ]
    return torch.stack(matrices if form == "paper" else [_normalised(matrix) for matrix in matrices])


def difference(student: Tensor, teacher: Tensor, form: str) -> Tensor:
    """From `correlations` of both."""
    batch, channels = student.shape[1:3]
    squares = (student - teacher).square().sum() / (len(student) * batch * channels)
    return squares / {"cifar": 1, "imagenet": batch, "paper": channels}[form]


def _resized(features: Tensor, like: Tensor) -> Tensor:
    """At the height and width of another map."""
    if features.shape[2:] == like.shape[2:]:
        return features
    features = at_least_float32(features)
    return functional.interpolate(features, like.shape[2:], mode="bilinear", align_corners=False)


def _patches(features: Tensor, grid: int) -> list[Tensor]:
    def bins(length: int) -> list[slice]:
        return [slice(i * length // grid, ((i + 1) * length + grid - 1) // grid) for i in range(grid)]

    rows, columns = (bins(length) for length in features.shape[2:])
    return [features[:, :, row, column] for row in rows for column in columns]


def _normalised(matrices: Tensor) -> Tensor:
    """Rows of [B, C, C] at length 1, and no gradient through a dead one."""
    lengths = torch.linalg.vector_norm(matrices, dim=2, keepdim=True)
    bound = (lengths.detach().amax(1, keepdim=True) * 1e-6).clamp(min=1e-12)
    alive = lengths > bound
    dead = matrices.detach() / lengths.detach().clamp(min=1e-12)
    return torch.where(alive, matrices / torch.where(alive, lengths, 1.0), dead)


class InterChannelCorrelation(Loss):
    """The last maps. As released, the student's always has an embedding: a convolution and BatchNorm.

    embedding: by_form is 1×1, or 3×3 in the form imagenet.

    The form imagenet divides by the batch twice: several ranks compute it on all their images.
    """

    needs = Needs.LAST_MAP

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        form: Literal["cifar", "imagenet", "paper"] = "cifar",
        grid: PositiveInt = 1,
        embedding: Literal["by_form", "conv1x1", "conv3x3"] = "by_form",
    ) -> None:
        super().__init__(student, teacher)
        ours, theirs = last_map("ickd", student), last_map("ickd", teacher)
        if grid > min(theirs.shape[2:]):
            height, width = theirs.shape[2:]
            raise BadParams(
                f"ickd: grid {grid} on the teacher's map of {height}×{width}; expected no more than a side"
            )
        wide = embedding == "conv3x3" or (embedding == "by_form" and form == "imagenet")
        self.embedding = conv_bn(ours.shape[1], theirs.shape[1], 3 if wide else 1)
        self.form, self.grid = form, grid
        if form == "imagenet":  # divides by the batch twice
            self.across_ranks = "gathered"

    @property
    def part_key(self) -> Hashable:
        return (self.form == "paper", self.grid)

    def teacher_part(self, teacher: Features) -> Tensor:
        return correlations(last_map("ickd", teacher).detach(), self.form, self.grid)

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        expected = self.teacher_part(teacher) if part is None else part
        own = self.embedding(at_least_float32(last_map("ickd", student)))
        if self.grid > 1:
            own = _resized(own, last_map("ickd", teacher))
        return difference(correlations(own, self.form, self.grid), expected, self.form)
