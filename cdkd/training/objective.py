"""What a student minimises: a weighted, scheduled sum of losses against a frozen teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdkd.core.features import Features
from cdkd.core.randomness import stream_seed
from cdkd.core.schedule import Method, Term, Weight
from cdkd.losses.base import Needs, build

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
        # the weights of the epoch, as tensors: a recorded CUDA graph reads them anew
        self.now = {name: torch.zeros((), device=student.logits.device) for name in self.weights}
        self.active: tuple[str, ...] = ()

    def open_epoch(self, epoch: int) -> None:
        """The weights of this epoch are in force from now on."""
        for name, weight in self.weights.items():
            self.now[name].fill_(weight.at(epoch))
        self.active = self.in_force(epoch)

    def in_force(self, epoch: int) -> tuple[str, ...]:
        """The losses whose weight is above 0."""
        return tuple(name for name, weight in self.weights.items() if weight.at(epoch) > 0)

    def needs(self, epoch: int) -> Needs:
        """What the losses in force read of the teacher."""
        needs: list[Needs] = [self.losses[name].needs for name in self.in_force(epoch)]  # type: ignore[misc]
        return max(needs, default=Needs.NOTHING)

    def forward(
        self, student: Features, teacher: Features | None, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimise and each loss before its weight. A loss whose weight is 0 is not computed."""
        total = student.logits.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        for name in self.active:
            value = self.losses[name](student, teacher, labels)
            parts[name] = value.detach()
            total = total + self.now[name] * value
        return total, parts
