"""CD, channel distillation: at each stage the channels have the teacher's mean activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, channel_means
from cdkd.losses.connectors import conv_bn_relu
from cdkd.losses.stages import paired

if TYPE_CHECKING:
    from typing import Literal

    from pydantic import PositiveInt


def channel_distillation(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Squared difference of the channels' means over the image, which the paper calls channel attention.

        CD = Σ_l mean_{b,c} (GAP(f_s^l)_{b,c} − GAP(f_t^l)_{b,c})²,   GAP = mean over height and width

    student_maps (connectors already applied), teacher_maps: as many of each; [B, C_l, H_l, W_l], with B and
    C_l equal and H_l and W_l free. Mean over batch and channels, sum over stages. The gradient in an element
    of f_s^l is 2 (GAP(f_s^l) − GAP(f_t^l))_{b,c} / (B·C·H·W).

    Neither paper nor released code normalises or learns an attention. Where one network has more stages, the
    released code ignores its last ones, without a message.

    Source: Zhou et al., Channel Distillation, 2006.01683; zhouzaida/channel-distillation, its
    `losses/cd_loss.py`.
    """
    means = [
        (channel_means(ours), channel_means(theirs.detach()))
        for ours, theirs in zip(student_maps, teacher_maps, strict=True)
    ]
    return torch.stack([(ours - theirs).square().mean() for ours, theirs in means]).sum()


class ChannelDistillation(Loss):
    """All stages, or some. As released, every student map has a connector, also where the channels agree.

    stages: pairs such as [2, 3], the student's stage and the teacher's, counted from 1; without it all, and
        the last ones of a network that has more.
    connector: a 1x1 convolution with BatchNorm and ReLU, or none.
    """

    needs = Needs.CHANNEL_MEANS

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        connector: Literal["conv_bn_relu", "none"] = "conv_bn_relu",
        stages: list[tuple[PositiveInt, PositiveInt]] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.pairs = paired("cd", len(student.maps), len(teacher.maps), stages)
        channels = [
            (student.maps[ours].shape[1], teacher.maps[theirs].shape[1]) for ours, theirs in self.pairs
        ]
        if connector == "none":
            for (stage, _), (ours, theirs) in zip(self.pairs, channels, strict=True):
                if ours != theirs:
                    raise BadParams(
                        f"cd: stage {stage + 1} has {ours} channels in the student and {theirs} in the"
                        " teacher; expected connector conv_bn_relu"
                    )
        self.connectors = nn.ModuleList(
            nn.Identity() if connector == "none" else conv_bn_relu(*pair) for pair in channels
        )

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        maps = [
            connect(at_least_float32(student.maps[ours]))
            for (ours, _), connect in zip(self.pairs, self.connectors, strict=True)
        ]
        return channel_distillation(maps, [teacher.maps[theirs] for _, theirs in self.pairs])
