"""CD, channel distillation: each channel's mean activation, stage by stage, like the teacher's."""

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

if TYPE_CHECKING:
    from typing import Literal


def channel_distillation(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Squared difference of the channels' means over the image, which the paper calls channel attention.

        CD = Σ_l mean_{b,c} (GAP(f_s^l)_{b,c} − GAP(f_t^l)_{b,c})²,   GAP = mean over height and width

    student_maps (connectors already applied), teacher_maps: as many of each; [B, C_l, H_l, W_l], with B and C_l equal
    and H_l and W_l free. Mean over batch and channels, sum over stages. The gradient in an element of f_s^l is
    2 (GAP(f_s^l) − GAP(f_t^l))_{b,c} / (B·C·H·W).

    No normalisation and no learned attention, in paper and released code alike. The released code passes in silence
    over the stages that one network has more than the other.

    Source: Zhou et al., Channel Distillation, 2006.01683; zhouzaida/channel-distillation, `losses/cd_loss.py`.
    """
    means = [
        (channel_means(ours), channel_means(theirs.detach()))
        for ours, theirs in zip(student_maps, teacher_maps, strict=True)
    ]
    return torch.stack([(ours - theirs).square().mean() for ours, theirs in means]).sum()


def _connector(channels: int, out: int) -> nn.Sequential:
    """From the student's channels to the teacher's; the ReLU makes the ranges agree, the teacher's map being behind one too."""
    return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class ChannelDistillation(Loss):
    """All stages. As released, every student map has a connector, also where the channels agree already."""

    needs = Needs.CHANNEL_MEANS

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        connector: Literal["conv_bn_relu", "none"] = "conv_bn_relu",
    ) -> None:
        super().__init__(student, teacher)
        if len(student.maps) != len(teacher.maps):
            raise BadParams(
                f"cd: the student has {len(student.maps)} stages and the teacher {len(teacher.maps)}; expected as many of each"
            )
        channels = [
            (ours.shape[1], theirs.shape[1]) for ours, theirs in zip(student.maps, teacher.maps, strict=True)
        ]
        if connector == "none":
            for stage, (ours, theirs) in enumerate(channels, 1):
                if ours != theirs:
                    raise BadParams(
                        f"cd: stage {stage} has {ours} channels in the student and {theirs} in the teacher; expected connector conv_bn_relu"
                    )
        self.connectors = nn.ModuleList(
            nn.Identity() if connector == "none" else _connector(*pair) for pair in channels
        )

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        maps = [
            connect(at_least_float32(own)) for connect, own in zip(self.connectors, student.maps, strict=True)
        ]
        return channel_distillation(maps, teacher.maps)
