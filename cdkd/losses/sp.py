"""SP, similarity-preserving distillation: images are alike for the student where they are for the teacher."""

from __future__ import annotations

from torch import Tensor

from cdkd.losses.base import at_least_float32, l2_normalise


def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared difference of the similarities between the images of a batch.

        F = f reshaped to [B, C·H·W],   G = F Fᵀ with each row divided by max(‖row‖₂, 1e-12)
        SP = (1/B²) Σ_ij (G^s_ij − G^t_ij)²

    student_map: [B, C_s, H_s, W_s]; teacher_map: [B, C_t, H_t, W_t]; nothing but B must agree. The value
    depends on which images share a batch. A batch of one gives 0. An image whose map is zero has zero
    gradient.

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
