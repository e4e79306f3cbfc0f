"""PCL: peers follow an ensemble of their features, and the moving averages of the other peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features, Outputs
from cdkd.losses.base import GroupLoss, at_least_float32
from cdkd.losses.ce import cross_entropy
from cdkd.losses.divergence import divergence

if TYPE_CHECKING:
    from typing import ClassVar

    from pydantic import PositiveFloat


def peer_collaboration(
    logits: Sequence[Tensor],
    ensemble_logits: Tensor,
    ema_logits: Sequence[Tensor],
    temperature: float = 3.0,
) -> Tensor:
    """Divergence of every peer from the ensemble and from the other peers' averaged copies.

        Σ_i [ KD(z_i ← z_ens) + mean_{j≠i} KD(z_i ← z_j^EMA) ]
        KD(z ← x) = T² · (1/B) Σ_b KL(softmax(x_b / T) ‖ softmax(z_b / T))

    logits, ema_logits: m times [B, K]; ensemble_logits: [B, K]; T: temperature. Targets carry no gradient. No
    cross-entropy is in it. One peer alone follows the ensemble only.

    Source: Wu and Gong, Peer Collaborative Learning, 2006.04147, equations 3 to 6.
    """
    parts = []
    for i, own in enumerate(logits):
        parts.append(divergence(own, ensemble_logits, temperature, detach=True))
        others = [z for j, z in enumerate(ema_logits) if j != i]
        parts += [divergence(own, z, temperature, detach=True) / len(others) for z in others]
    return torch.stack(parts).sum()


class PeerCollaboration(GroupLoss):
    """The peers' moving averages, and an ensemble: one linear layer on the pooled features of all peers."""

    requires: ClassVar[tuple[str, ...]] = ("several", "ema")

    def __init__(
        self, outputs: Outputs, teachers: Mapping[str, Features], *, temperature: PositiveFloat = 3.0
    ) -> None:
        super().__init__(outputs, teachers)
        if outputs.ema is None:
            raise BadParams(
                "pcl: the networks have no moving averages; expected ema in group, such as ema: 0.999"
            )
        each = list(outputs.each.values())
        self.head = nn.Linear(sum(one.pooled.shape[1] for one in each), each[0].logits.shape[1])
        self.temperature = temperature

    def forward(
        self, outputs: Outputs, teachers: Mapping[str, Features], batch: Batch
    ) -> Mapping[str, Tensor]:
        if outputs.ema is None:
            raise TypeError("no moving averages")
        ensemble = self.ensemble(outputs)
        logits, averaged = ([one.logits for one in side.values()] for side in (outputs.each, outputs.ema))
        follow = peer_collaboration(logits, ensemble, averaged, self.temperature)
        return {"ce": cross_entropy(ensemble, batch.labels), "kd": follow}

    def ensemble(self, outputs: Outputs) -> Tensor:
        """[B, K]"""
        pooled = torch.cat([at_least_float32(one.pooled) for one in outputs.each.values()], 1)
        ensemble: Tensor = self.head(pooled)
        return ensemble
