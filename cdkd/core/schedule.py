"""Weights over time, the methods made of them, and the recipe they are trained by: plain values, which need no library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

Curve = Literal["step", "exponential", "linear", "cosine"]


@dataclass(frozen=True)
class Weight:
    """A weight over time: 0 outside [start, stop), else value * decay ** (number of milestones passed).

    Epochs count from 0; a milestone m is passed in epoch m and after. EDT is made of these: the decay of the
    distillation weight is `milestones` and `decay`, the epochs of channel distillation alone are the `start` of the
    other losses, and a two-stage FitNets is a `stop`.

    With `over` there are no milestones but a curve: after so many epochs from the start the weight is value * decay
    whichever curve it takes there. A step falls then, and again every `over` epochs; an exponential goes on falling;
    linear and cosine stay where they have come to.
    """

    value: float
    start: int = 0
    stop: int | None = None
    milestones: tuple[int, ...] = ()
    decay: float = 1.0
    curve: Curve = "step"
    over: int | None = None

    def at(self, epoch: int) -> float:
        if epoch < self.start or (self.stop is not None and epoch >= self.stop):
            return 0.0
        return self.value * self._factor(epoch)

    def _factor(self, epoch: int) -> float:
        if self.over is None:
            return float(self.decay ** sum(milestone <= epoch for milestone in self.milestones))
        share = (epoch - self.start) / self.over
        if self.curve == "step":
            return float(self.decay ** math.floor(share))
        if self.curve == "exponential":
            return float(self.decay**share)
        way = min(share, 1.0)
        return 1 - (1 - self.decay) * (way if self.curve == "linear" else (1 - math.cos(math.pi * way)) / 2)


class Term(NamedTuple):
    """One loss of a method: its weight over time and its options."""

    weight: Weight
    options: Mapping[str, Any]


Method = Mapping[str, Term]  # loss name -> Term


@dataclass(frozen=True)
class Augmentation:
    """See `schema.Augmentation`, which checks it."""

    pad: int
    padding: Literal["zeros", "reflect"]
    flip: bool
    resized_crop: int | None


@dataclass(frozen=True)
class Recipe:
    """How a run is trained, every value resolved; see `schema.Training`, which checks it and holds the defaults."""

    epochs: int
    batch: int
    learning_rate: float
    momentum: float
    weight_decay: float
    nesterov: bool
    milestones: tuple[int, ...]
    decay: float
    warmup: int
    precision: Literal["float32", "bf16"]
    engine: Literal["eager", "compile"]
    augmentation: Augmentation

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a run's configuration."""
        return cls(
            **{
                **values,
                "milestones": tuple(values["milestones"]),
                "augmentation": Augmentation(**values["augmentation"]),
            }
        )

    def learning_rate_at(self, epoch: int) -> float:
        rise = min(1.0, (epoch + 1) / (self.warmup + 1))
        return (
            self.learning_rate * rise * self.decay ** sum(milestone <= epoch for milestone in self.milestones)
        )
