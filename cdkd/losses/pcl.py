"""PCL: peers follow an ensemble of their features, and the moving averages of the other peers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cdkd.losses.divergence import divergence


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
