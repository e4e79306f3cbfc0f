"""Weights over time and the methods made of them: plain values, which need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Weight:
    """A weight over time: 0 outside [start, stop), else value * decay ** (number of milestones passed).

    Epochs count from 0; a milestone m is passed in epoch m and after. EDT is made of these: the decay of the
    distillation weight is `milestones` and `decay`, the epochs of channel distillation alone are the `start` of the
    other losses, and a two-stage FitNets is a `stop`.
    """

    value: float
    start: int = 0
    stop: int | None = None
    milestones: tuple[int, ...] = ()
    decay: float = 1.0

    def at(self, epoch: int) -> float:
        if epoch < self.start or (self.stop is not None and epoch >= self.stop):
            return 0.0
        return self.value * self.decay ** sum(milestone <= epoch for milestone in self.milestones)


class Term(NamedTuple):
    """One loss of a method: its weight over time and its options."""

    weight: Weight
    options: Mapping[str, Any]


Method = Mapping[str, Term]  # loss name -> Term
