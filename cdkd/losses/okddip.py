"""OKDDip: each peer follows its own attention's mixture of the peers, and a leader follows their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features, Outputs
from cdkd.losses.base import GroupLoss, at_least_float32
from cdkd.losses.divergence import divergence, require_equal_logits

if TYPE_CHECKING:
    from typing import ClassVar, Literal

    from pydantic import PositiveFloat


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
    was drawn. The form `released` adds 1e-7 to the probabilities of a target, as the released code does.

    Source: Chen et al., 1912.00350, equations 2 to 7; DefangChen/OKDDip-AAAI2020, `train_GL.py`, `utils.py`.
    """
    stacked = torch.stack([at_least_float32(z) for z in peer_logits], 1)
    mixtures = attention @ stacked
    follow = [divergence(own, mixtures[:, i], temperature, detach, form) for i, own in enumerate(peer_logits)]
    return torch.stack(follow).sum() + divergence(leader_logits, stacked.mean(1), temperature, detach, form)


class DiversePeers(GroupLoss):
    """Peers and a leader: branches of one trunk, or whole networks.

        a_ij = softmax_j(q_i · k_j),   q_i = W_q h_i,   k_i = W_k h_i

    h: a peer's pooled features, [B, D]; W_q, W_k: learned, from D to D/8, without bias.

    leader: the network that follows the peers: the deployed one, as `deploy` of the group names it, and no
        other; it need not be given
    """

    requires: ClassVar[tuple[str, ...]] = ("several",)

    def __init__(
        self,
        outputs: Outputs,
        teachers: Mapping[str, Features],
        *,
        temperature: PositiveFloat = 3.0,
        leader: str | None = None,
        detach: bool = False,
        form: Literal["exact", "released"] = "exact",
    ) -> None:
        super().__init__(outputs, teachers)
        require_equal_logits("okddip", outputs)
        names = list(outputs.each)
        self.leader = names[0] if leader is None else leader
        if self.leader not in names:
            raise BadParams(
                f"okddip: leader {leader!r}; expected one of the group's networks, {', '.join(names)}"
            )
        self.peers = tuple(name for name in names if name != self.leader)
        widths = {name: outputs.each[name].pooled.shape[1] for name in self.peers}
        if len(set(widths.values())) != 1:
            found = ", ".join(f"{name} {width}" for name, width in widths.items()) or "none"
            raise BadParams(
                f"okddip: pooled features of the peers: {found}; expected one or more of the same width"
            )
        (width,) = set(widths.values())
        self.query = nn.Linear(width, max(1, width // 8), bias=False)
        self.key = nn.Linear(width, max(1, width // 8), bias=False)
        self.temperature, self.detach, self.form = temperature, detach, form

    def forward(self, outputs: Outputs, teachers: Mapping[str, Features], batch: Batch) -> Tensor:
        peers = [outputs.each[name] for name in self.peers]
        pooled = torch.stack([at_least_float32(one.pooled) for one in peers], 1)
        attention = (self.query(pooled) @ self.key(pooled).transpose(1, 2)).softmax(2)
        logits, leader = [one.logits for one in peers], outputs.each[self.leader].logits
        return diverse_peers(logits, leader, attention, self.temperature, self.detach, self.form)
