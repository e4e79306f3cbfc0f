"""ONE: branches follow an ensemble of themselves, which a gate weighs image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdkd.losses.base import at_least_float32
from cdkd.losses.ce import cross_entropy
from cdkd.losses.divergence import divergence

if TYPE_CHECKING:
    from typing import Literal


def native_ensemble(
    logits: Sequence[Tensor],
    gate: Tensor,
    labels: Tensor,
    temperature: float = 3.0,
    detach: bool = True,
    form: Literal["exact", "released"] = "exact",
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the gated ensemble, and the branches' divergence from it.

        z_e = Σ_i g_i z_i
        (CE(z_e, y),   Σ_i T² · (1/B) Σ_b KL(softmax(z_e / T) ‖ softmax(z_i / T)))

    logits: m times [B, K]; gate: [B, m], rows sum to 1; labels: [B] int64; T: temperature. The branches' own
    cross-entropies are not in it. The ensemble's cross-entropy always trains branches and gate; its part as a
    target does so only without `detach`, as OKDDip's repository has it.

    Source: Zhu, Gong and Lan, 1806.04606, equations 3 to 8; Lan1991Xu/ONE_NeurIPS2018, `cifar_one.py`,
    `loss/kl_loss.py`.
    """
    ensemble = gated(logits, gate)
    follow = [divergence(own, ensemble, temperature, detach, form) for own in logits]
    return cross_entropy(ensemble, labels), torch.stack(follow).sum()


def gated(logits: Sequence[Tensor], gate: Tensor) -> Tensor:
    """The gate's weighted sum of logits: m times [B, K] and [B, m] to [B, K]."""
    return (torch.stack([at_least_float32(z) for z in logits], 1) * gate[:, :, None]).sum(1)
