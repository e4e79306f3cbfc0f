"""OKDDip: each peer follows its own attention's mixture of the peers, and a leader follows their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdkd.losses.base import at_least_float32
from cdkd.losses.divergence import divergence

if TYPE_CHECKING:
    from typing import Literal


def diverse_peers(
    peer_logits: Sequence[Tensor],
    leader_logits: Tensor,
    attention: Tensor,
    temperature: float = 3.0,
    detach: bool = False,
    form: Literal["exact", "released"] = "exact",
) -> Tensor:
    """Divergence of the peers from their mixtures and of the leader from the peers' mean.

        x_i = Σ_j a_ij z_j
        Σ_i KL_T(x_i ‖ z_i) + KL_T(mean_j z_j ‖ z_leader)
        KL_T(x ‖ z) = T² · (1/B) Σ_b KL(softmax(x_b / T) ‖ softmax(z_b / T))

    peer_logits: m times [B, K], without the leader; leader_logits: [B, K]; attention: [B, m, m], a peer's own
    weight among them, rows sum to 1; T: temperature.

    The released code detaches nothing: the gradient of a target is all that ever trains the attention, and it
    also reaches the peers through the mean that the leader follows. With `detach` the attention stays as it
    was drawn.

    Source: Chen et al., 1912.00350, equations 2 to 7; DefangChen/OKDDip-AAAI2020, `train_GL.py`, `utils.py`.
    """
    stacked = torch.stack([at_least_float32(z) for z in peer_logits], 1)
    mixtures = attention @ stacked
    follow = [divergence(own, mixtures[:, i], temperature, detach, form) for i, own in enumerate(peer_logits)]
    return torch.stack(follow).sum() + divergence(leader_logits, stacked.mean(1), temperature, detach, form)
