"""CWD, channel-wise distillation: each channel attends to the same places as the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32
from cdkd.losses.pooling import Size, pool, smaller_size
from cdkd.losses.stages import last_map

if TYPE_CHECKING:
    from pydantic import PositiveFloat


def channel_wise_kl(student_map: Tensor, teacher_map: Tensor, temperature: float = 4.0) -> Tensor:
    """Divergence of the channels' probabilities over the positions.

        φ(f)_{b,c} = softmax over H·W of f_{b,c} / T
        CWD = T² · (1/(B·C)) Σ_{b,c} KL(φ(f_t)_{b,c} ‖ φ(f_s)_{b,c})

    student_map, teacher_map: [B, C, H, W], of one shape. A constant added to a channel changes nothing; a map
    of 1×1 gives 0.

    The released code takes the softmax first and its logarithm afterwards, which is NaN where a position
    underflows; this one is exact there. The weight 3 was published for maps of logits at T = 4.

    Source: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, 2011.13256;
    irfanICMLL/TorchDistiller.
    """
    ours, theirs = (
        functional.log_softmax(at_least_float32(one).flatten(2) / temperature, dim=2)
        for one in (student_map, teacher_map.detach())
    )
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(2).mean()


class ChannelWise(Loss):
    """The last maps; the larger is average-pooled to the smaller.

    Where the channels differ the student's map goes through a 1×1 convolution; a bias would have no effect.
    """

    needs = Needs.LAST_MAP

    def __init__(self, student: Features, teacher: Features, *, temperature: PositiveFloat = 4.0) -> None:
        super().__init__(student, teacher)
        ours, theirs = last_map("cwd", student), last_map("cwd", teacher)
        self.size: Size = smaller_size(ours, theirs)
        same = ours.shape[1] == theirs.shape[1]
        self.connector = nn.Identity() if same else nn.Conv2d(ours.shape[1], theirs.shape[1], 1, bias=False)
        self.temperature = temperature

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        own = self.connector(at_least_float32(last_map("cwd", student)))
        target = pool(last_map("cwd", teacher), self.size)
        return channel_wise_kl(pool(own, self.size), target, self.temperature)
