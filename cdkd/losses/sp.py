"""SP, similarity-preserving distillation: images are alike for the student where they are for the teacher."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, l2_normalise
from cdkd.losses.stages import paired

if TYPE_CHECKING:
    from pydantic import PositiveInt


def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared difference of the similarities between the images of a batch.

        F = f reshaped to [B, C·H·W],   G = F Fᵀ with each row divided by max(‖row‖₂, 1e-12)
        SP = (1/B²) Σ_ij (G^s_ij − G^t_ij)²

    student_map: [B, C_s, H_s, W_s]; teacher_map: [B, C_t, H_t, W_t]; nothing but B must agree. The value
    depends on which images share a batch. A batch of one gives 0. An image with a zero map has zero gradient.

    Paper and RepDistiller agree; the weight there is 3000.

    Source: Tung and Mori, Similarity-Preserving Knowledge Distillation, 1907.09682;
    RepDistiller, `distiller_zoo/SP.py`.
    """
    return squared_difference(similarities(student_map), similarities(teacher_map.detach()))


def similarities(features: Tensor) -> Tensor:
    """[B, ...] to the normalised similarities of the images [B, B]."""
    rows = at_least_float32(features).flatten(1)
    return l2_normalise(rows @ rows.mT, 1)


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """[B, B] each to a scalar: Σ (student − teacher)² / B²."""
    return (student - teacher).square().mean()


class SimilarityPreserving(Loss):
    """One map of each network, the last unless `stages` names another pair; the sum over several."""

    needs = Needs.MAPS
    across_ranks = "gathered"

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        stages: list[tuple[PositiveInt, PositiveInt]] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        ours, theirs = len(student.maps), len(teacher.maps)
        self.pairs = paired("sp", ours, theirs, [(ours, theirs)] if stages is None else stages)

    @property
    def part_key(self) -> Hashable:
        return tuple(theirs for _, theirs in self.pairs)

    def teacher_part(self, teacher: Features) -> list[Tensor]:
        return [similarities(teacher.maps[theirs].detach()) for _, theirs in self.pairs]

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        expected = self.teacher_part(teacher) if part is None else part
        found = [similarities(student.maps[ours]) for ours, _ in self.pairs]
        values = [squared_difference(s, t) for s, t in zip(found, expected, strict=True)]
        return torch.stack(values).sum()
