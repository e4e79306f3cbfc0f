"""CSS: two branched networks that predict class and branch together, and teach each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features, Outputs
from cdkd.losses.base import GroupLoss, at_least_float32
from cdkd.losses.ce import cross_entropy
from cdkd.losses.divergence import divergence

if TYPE_CHECKING:
    from typing import ClassVar, Literal

    from pydantic import PositiveFloat


def channel_self_supervision(
    teacher_logits: Tensor,
    student_logits: Tensor,
    labels: Tensor,
    temperature: float = 3.0,
    detach: Literal["none", "ratios", "targets", "both"] = "none",
) -> Tensor:
    """The whole loss of both networks, cross-entropies included.

        CE_t = mean_i CE(z_t^i, n·y + i),   CE_s likewise
        KL_{t←s} = mean_i T² · (1/B) Σ_b KL(softmax(z_s^i / T) ‖ softmax(z_t^i / T)),   KL_{s←t} reversed
        CE_t + (CE_t / CE_s) · KL_{t←s} + CE_s + (CE_s / CE_t) · KL_{s←t}

    teacher_logits, student_logits: [B, n·K, n], branch i in the last dimension; labels: [B] int64, the plain
    classes; T: temperature. detach: which of the ratios and the targets carry no gradient; the released code
    detaches neither.

    A ratio that carries a gradient rewards a network for a larger cross-entropy of the other one. It grows
    without bound as that one's falls to 0.

    Source: Fan et al., Channel Self-Supervision for Online Knowledge Distillation, 2203.11660;
    PumpkinsLemon/CSS, `train.py`.
    """
    branches = teacher_logits.shape[2]
    t, s = at_least_float32(teacher_logits), at_least_float32(student_logits)
    ce_t, ce_s = (
        torch.stack(
            [cross_entropy(z[:, :, i], joint_labels(labels, i, branches)) for i in range(branches)]
        ).mean()
        for z in (t, s)
    )
    targets, ratios = detach in ("targets", "both"), detach in ("ratios", "both")
    kl_t, kl_s = (
        torch.stack(
            [divergence(z[:, :, i], x[:, :, i], temperature, targets) for i in range(branches)]
        ).mean()
        for z, x in ((t, s), (s, t))
    )
    ratio_t, ratio_s = ce_t / ce_s, ce_s / ce_t
    if ratios:
        ratio_t, ratio_s = ratio_t.detach(), ratio_s.detach()
    return ce_t + ratio_t * kl_t + ce_s + ratio_s * kl_s


def joint_labels(labels: Tensor, branch: int, branches: int) -> Tensor:
    """Class and branch as one label, n·y + i: [B] int64."""
    return branches * labels + branch


class ChannelSelfSupervision(GroupLoss):
    """Two networks with as many masked branches each, such as resnet110-b12+css3 and resnet56-b6+css3."""

    requires: ClassVar[tuple[str, ...]] = ("branches",)
    across_ranks = "gathered"  # its ratios are those of the whole batch

    def __init__(
        self,
        outputs: Outputs,
        teachers: Mapping[str, Features],
        *,
        temperature: PositiveFloat = 3.0,
        detach: Literal["none", "ratios", "targets", "both"] = "none",
    ) -> None:
        super().__init__(outputs, teachers)
        branches = {name: len(one.branches or ()) for name, one in outputs.each.items()}
        counts = set(branches.values())
        if len(branches) != 2 or len(counts) != 1 or 0 in counts:
            found = ", ".join(f"{name} with {count} branches" for name, count in branches.items())
            raise BadParams(
                f"css: {found}; expected two networks with as many branches each, such as resnet20+css3"
            )
        self.temperature, self.detach = temperature, detach

    def forward(self, outputs: Outputs, teachers: Mapping[str, Features], batch: Batch) -> Tensor:
        one, other = (torch.stack(features.branches or (), 2) for features in outputs.each.values())
        return channel_self_supervision(one, other, batch.labels, self.temperature, self.detach)
