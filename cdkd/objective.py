"""What a student minimises: a weighted, scheduled sum of losses against a frozen teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdkd.data.randomness import stream_seed
from cdkd.losses.base import build
from cdkd.models.features import Features
from cdkd.schedule import Method, Term, Weight

__all__ = ["Method", "Objective", "Term", "Weight"]


class Objective(nn.Module):
    """The sum of a method's losses, each times its weight in the epoch.

    Built from one batch of each side's features, for their shapes. A loss's connectors are initialised from the seed
    and the loss's name alone, so that neither the student nor another loss feels that they are there. Losses are
    summed in alphabetical order, so that the order of params.yaml decides nothing.
    """

    def __init__(self, method: Method, student: Features, teacher: Features | None, seed: int) -> None:
        super().__init__()
        self.weights = {name: method[name].weight for name in sorted(method)}
        self.losses = nn.ModuleDict()
        for name in self.weights:
            with torch.random.fork_rng():
                torch.manual_seed(stream_seed(f"connectors of {name}", seed))
                self.losses[name] = build(name, student, teacher, dict(method[name].options))

    def forward(self, student: Features, teacher: Features | None, labels: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimise and each loss before its weight. A loss whose weight is 0 is not computed."""
        total = student.logits.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        for name, loss in self.losses.items():
            weight = self.weights[name].at(epoch)
            if weight > 0:
                value = loss(student, teacher, labels)
                parts[name] = value.detach()
                total = total + weight * value
        return total, parts
