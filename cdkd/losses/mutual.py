"""Mutual learning: every network takes the others' answers as targets (DML; CL-ILR by `target`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.features import Features, Outputs
from cdkd.losses.base import GroupLoss
from cdkd.losses.divergence import divergence, require_equal_logits

if TYPE_CHECKING:
    from typing import Literal

    from pydantic import PositiveFloat


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


class Mutual(GroupLoss):
    """Between all networks of a group.

    CL-ILR: temperature 3, target mean_logits, detach false and rise 80, on branches with `gradient: mean`.
    """

    def __init__(
        self,
        outputs: Outputs,
        teachers: Mapping[str, Features],
        *,
        temperature: PositiveFloat = 1.0,
        target: Literal["each", "mean_logits"] = "each",
        detach: bool = True,
        form: Literal["exact", "released", "official"] = "exact",
    ) -> None:
        super().__init__(outputs, teachers)
        require_equal_logits("mutual", outputs)
        self.temperature, self.target, self.detach, self.form = temperature, target, detach, form

    def forward(self, outputs: Outputs, teachers: Mapping[str, Features], batch: Batch) -> Tensor:
        logits = [features.logits for features in outputs.each.values()]
        return mutual(logits, self.temperature, self.target, self.detach, self.form)
