"""ONE: branches follow an ensemble of themselves, which a gate weighs image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features, Outputs
from cdkd.losses.base import GroupLoss, at_least_float32, channel_means
from cdkd.losses.ce import cross_entropy
from cdkd.losses.divergence import divergence

if TYPE_CHECKING:
    from typing import ClassVar, Literal

    from pydantic import PositiveFloat


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
    target does so only without `detach`, as OKDDip's repository has it. The form `released` adds 1e-7 to the
    probabilities of the target, as the released code does.

    Source: Zhu, Gong and Lan, 1806.04606, equations 3 to 8; Lan1991Xu/ONE_NeurIPS2018, `cifar_one.py`,
    `loss/kl_loss.py`.
    """
    ensemble = gated(logits, gate)
    follow = [divergence(own, ensemble, temperature, detach, form) for own in logits]
    return cross_entropy(ensemble, labels), torch.stack(follow).sum()


def gated(logits: Sequence[Tensor], gate: Tensor) -> Tensor:
    """The gate's weighted sum of logits: m times [B, K] and [B, m] to [B, K]."""
    return (torch.stack([at_least_float32(z) for z in logits], 1) * gate[:, :, None]).sum(1)


class NativeEnsemble(GroupLoss):
    """The branches of one trunk, and a gate that reads the trunk's map.

        g = softmax_i(ReLU(BatchNorm(W u + b))),   u: the map's mean over height and width

    Where all scores of an image are negative its gate is uniform. The authors' code is m = 3 branches with
    `detach`; tables made with OKDDip's repository have m = 4 and `detach: false`.
    """

    requires: ClassVar[tuple[str, ...]] = ("several", "shared")

    def __init__(
        self,
        outputs: Outputs,
        teachers: Mapping[str, Features],
        *,
        temperature: PositiveFloat = 3.0,
        detach: bool = True,
        form: Literal["exact", "released"] = "exact",
    ) -> None:
        super().__init__(outputs, teachers)
        if outputs.shared is None:
            raise BadParams(
                "one: the networks have nothing in common; expected branches of one trunk in group"
            )
        count = len(outputs.each)
        self.gate = nn.Sequential(nn.Linear(outputs.shared.shape[1], count), nn.BatchNorm1d(count), nn.ReLU())
        self.temperature, self.detach, self.form = temperature, detach, form

    def forward(
        self, outputs: Outputs, teachers: Mapping[str, Features], batch: Batch
    ) -> Mapping[str, Tensor]:
        logits = [features.logits for features in outputs.each.values()]
        label, follow = native_ensemble(
            logits, self._gate(outputs), batch.labels, self.temperature, self.detach, self.form
        )
        return {"ce": label, "kd": follow}

    def ensemble(self, outputs: Outputs) -> Tensor:
        return gated([features.logits for features in outputs.each.values()], self._gate(outputs))

    def _gate(self, outputs: Outputs) -> Tensor:
        """[B, m], rows sum to 1."""
        if outputs.shared is None:
            raise TypeError("a gate without a common trunk")
        scores: Tensor = self.gate(channel_means(outputs.shared))
        return scores.softmax(1)
