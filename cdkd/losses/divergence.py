"""The divergence that losses over peers share: softened, with a target that may carry a gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cdkd.core.errors import BadParams
from cdkd.core.features import Outputs
from cdkd.losses.base import at_least_float32

Form = Literal["exact", "released", "official"]


def divergence(
    logits: Tensor, target: Tensor, temperature: float, detach: bool, form: Form = "exact"
) -> Tensor:
    """temperature² times the mean over the batch of how far a network is from its target.

        p = softmax(target / temperature),   q = softmax(logits / temperature)
        exact:    temperature² · (1/B) Σ_b Σ_k p (log p − log q),   which is KL(p ‖ q)
        released: the same with p + 1e-7 for p: the code of ONE and of OKDDip
        official: temperature² · (1/B) Σ_b Σ_k p log(1e-8 + p / (q + 1e-8)): the code of DML

    logits, target: [B, K]. Sum over classes, mean over the batch. detach: no gradient enters the target.
    """
    logits, target = at_least_float32(logits), at_least_float32(target.detach() if detach else target)
    scale = temperature**2 / len(logits)
    if form == "official":
        p, q = (target / temperature).softmax(1), (logits / temperature).softmax(1)
        return scale * (p * torch.log(1e-8 + p / (q + 1e-8))).sum()
    log_q = functional.log_softmax(logits / temperature, dim=1)
    if form == "released":
        p = (target / temperature).softmax(1) + 1e-7
        return scale * (p * (p.log() - log_q)).sum()
    log_p = functional.log_softmax(target / temperature, dim=1)
    return scale * (log_p.exp() * (log_p - log_q)).sum()


def require_equal_logits(loss: str, outputs: Outputs) -> None:
    """Raises BadParams where the networks of a group answer with different numbers of classes."""
    classes = {name: features.logits.shape[1] for name, features in outputs.each.items()}
    if len(set(classes.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in classes.items())
        raise BadParams(
            f"{loss}: the networks have different numbers of classes ({found}); expected the same"
        )
