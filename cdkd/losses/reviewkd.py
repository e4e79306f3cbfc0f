"""ReviewKD: each level of the student, fused with the deeper ones, agrees with the teacher's map."""

from __future__ import annotations

import torch
from torch import Tensor

from cdkd.losses.pooling import pool


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
    errors = [(pool(student_map, size) - pool(teacher_map, size)).square().mean() for size in sizes]
    weighted = [factor * error for factor, error in zip(factors, errors, strict=True)]
    return torch.stack(weighted).sum() / sum(factors)
