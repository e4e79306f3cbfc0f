"""Mutual learning: every network takes the others' answers as targets (DML; CL-ILR by `target`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdkd.losses.divergence import divergence

if TYPE_CHECKING:
    from typing import Literal


def mutual(
    logits: Sequence[Tensor],
    temperature: float = 1.0,
    target: Literal["each", "mean_logits"] = "each",
    detach: bool = True,
    form: Literal["exact", "released", "official"] = "exact",
) -> Tensor:
    """Divergence of every network from the others.

        each:        Σ_i 1/(m−1) Σ_{j≠i} KL_T(z_j ‖ z_i)
        mean_logits: Σ_i KL_T(mean_{j≠i} z_j ‖ z_i)
        KL_T(x ‖ z) = T² · (1/B) Σ_b KL(softmax(x_b / T) ‖ softmax(z_b / T))

    logits: m times [B, K]; T: temperature. One network alone: 0. Targets carry a gradient unless `detach`.

    The paper and its code (`form: official`) detach; with more than two networks the code leaves out 1/(m−1).
    OKDDip's repository (`form: released`) has T = 3, `mean_logits` and no detaching: its "DML" is CL-ILR's
    sum on separate networks.

    Source: Zhang et al., Deep Mutual Learning, 1706.00384, equations 3 to 6;
    YingZhangDUT/Deep-Mutual-Learning, `train_models.py`; Song and Chai, Collaborative Learning, 1805.11761;
    DefangChen/OKDDip-AAAI2020, `train_DML.py`.
    """
    total = logits[0].new_zeros((), dtype=torch.promote_types(logits[0].dtype, torch.float32))
    for i, own in enumerate(logits):
        others = [z for j, z in enumerate(logits) if j != i]
        if not others:
            return total
        targets = others if target == "each" else [torch.stack(others).mean(0)]
        for one in targets:
            total = total + divergence(own, one, temperature, detach, form) / len(targets)
    return total
