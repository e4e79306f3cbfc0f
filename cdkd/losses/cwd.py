"""CWD, channel-wise distillation: each channel attends to the same places as the teacher's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from cdkd.losses.base import at_least_float32


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
