"""Weights over time, methods and the training recipe: plain values, which need no library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from cdkd.core.group import Group

Curve = Literal["step", "exponential", "linear", "cosine"]
Rise = Literal["exponential", "linear"]
Inactive = Literal["untouched", "decayed"]
TEACHER = "teacher"


@dataclass(frozen=True)
class Weight:
    """A weight over time: 0 outside [start, stop), else value * decay ** (number of milestones passed).

    Epochs count from 0; a milestone m is passed in epoch m and after. EDT is made of these: the decay of the
    distillation weight is `milestones` and `decay`, the epochs of channel distillation alone are the `start`
    of the other losses, and a two-stage FitNets is a `stop`.

    With `over` there are no milestones but a curve: after so many epochs from the start the weight is
    value * decay, whatever the curve. A step falls then, and again every `over` epochs; an exponential goes
    on falling; linear and cosine keep that value.

    With `rise` the weight grows for so many epochs e from the start. It is multiplied by
    exp(-5 (1 - min(e, rise) / rise)^2), or with the linear curve by min(1, (e + rise_from) / rise).
    """

    value: float
    start: int = 0
    stop: int | None = None
    milestones: tuple[int, ...] = ()
    decay: float = 1.0
    curve: Curve = "step"
    over: int | None = None
    rise: int | None = None
    rise_curve: Rise = "exponential"
    rise_from: int = 0

    def at(self, epoch: int) -> float:
        return self.without_rise(epoch) * self.rise_at(epoch)

    def without_rise(self, epoch: int) -> float:
        if epoch < self.start or (self.stop is not None and epoch >= self.stop):
            return 0.0
        return self.value * self._factor(epoch)

    def rise_at(self, epoch: int) -> float:
        """The factor of the rise, from 0 to 1."""
        if self.rise is None:
            return 1.0
        since = max(0, epoch - self.start)
        if self.rise_curve == "linear":
            return min(1.0, (since + self.rise_from) / self.rise)
        return math.exp(-5.0 * (1.0 - min(since, self.rise) / self.rise) ** 2)

    def _factor(self, epoch: int) -> float:
        if self.over is None:
            return float(self.decay ** sum(milestone <= epoch for milestone in self.milestones))
        share = (epoch - self.start) / self.over
        if self.curve == "step":
            return float(self.decay ** math.floor(share))
        if self.curve == "exponential":
            return float(self.decay**share)
        progress = min(share, 1.0)
        return 1 - (1 - self.decay) * (
            progress if self.curve == "linear" else (1 - math.cos(math.pi * progress)) / 2
        )


class Term(NamedTuple):
    """One term of a method.

    loss: its name; the term's own where it is empty
    of: the networks of the learner that it trains; None: all
    source: what they learn from: a teacher, another network of the learner, or `ema`
    """

    weight: Weight
    options: Mapping[str, Any] = MappingProxyType({})
    loss: str = ""
    of: tuple[str, ...] | None = None
    source: str = TEACHER


@dataclass(frozen=True)
class Method(Mapping[str, Term]):
    """Terms by their names.

    inactive: what happens to parameters that no active term gives a gradient. `untouched`: nothing.
        `decayed`: their gradient is zero, so that weight decay and momentum act on them, as in the released
        code of CD.
    group: the networks that are trained together; None: the student alone
    """

    terms: Mapping[str, Term]
    inactive: Inactive = "untouched"
    group: Group | None = None

    def __post_init__(self) -> None:
        named = {name: term._replace(loss=term.loss or name) for name, term in self.terms.items()}
        object.__setattr__(self, "terms", named)

    def __getitem__(self, name: str) -> Term:
        return self.terms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses that it is made of, each once."""
        return tuple(sorted({term.loss for term in self.terms.values()}))


@dataclass(frozen=True)
class Augmentation:
    """See `schema.Augmentation`, which checks it."""

    pad: int
    padding: Literal["zeros", "reflect"]
    flip: bool
    resized_crop: int | None


@dataclass(frozen=True)
class Recipe:
    """How a run is trained, every value resolved. `schema.Training` checks it and says what each means.

    A value at its default here is left out of a run's configuration: a new option with such a default changes
    no fingerprint.
    """

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
    momentum_at_milestones: Literal["kept", "reset"]
    optimiser: Literal["sgd", "adamw"] = "sgd"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    schedule: Literal["step", "cosine", "linear", "one_cycle"] = "step"
    rate_per: Literal["epoch", "step"] = "epoch"
    start_factor: float = 0.04
    end_factor: float = 0.0
    clip: float = 0.0
    ranks: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a run's configuration."""
        given = {
            "momentum_at_milestones": "kept",  # which older configurations lack
            **values,
            "milestones": tuple(values["milestones"]),
            "augmentation": Augmentation(**values["augmentation"]),
        }
        if "betas" in given:
            first, second = given["betas"]
            given["betas"] = (first, second)
        return cls(**given)

    def values(self) -> dict[str, Any]:
        """As plain values for a run's configuration; the inverse of `of`."""
        defaults = {field.name: field.default for field in fields(self)}
        found = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def learning_rate_at(self, epoch: int, step: int = 0, steps: int = 1) -> float:
        """The rate of a step of an epoch.

        step, steps: the step's number, from 0, and how many steps the epoch has; of no effect where the rate
            changes from epoch to epoch. Without them it is the rate with which the epoch begins, but for a
            warm-up by steps.
        """
        if self.rate_per == "epoch":
            step, steps = 0, 1
        now, warm, total = epoch * steps + step, self.warmup * steps, self.epochs * steps
        if self.schedule == "one_cycle":
            return self.learning_rate * self._one_cycle(now, warm, total)
        rise = min(1.0, (now + 1) / (warm + 1))
        return self.learning_rate * rise * self._fall(epoch, max(0, now - warm) / max(1, total - warm))

    def _fall(self, epoch: int, share: float) -> float:
        """The factor after the warm-up; share: how much of the training after it has passed."""
        if self.schedule == "step":
            return float(self.decay ** sum(milestone <= epoch for milestone in self.milestones))
        left = 1 - share if self.schedule == "linear" else (1 + math.cos(math.pi * share)) / 2
        return self.end_factor + (1 - self.end_factor) * left

    def _one_cycle(self, now: int, warm: int, total: int) -> float:
        """Half a cosine up to 1 in the last step of the warm-up, half a cosine down to the last of all."""
        peak = max(0, warm - 1)
        if now <= peak:
            low, share = self.start_factor, 1 - now / peak if peak else 0.0
        else:
            low, share = self.end_factor, (now - peak) / (total - 1 - peak)
        return low + (1 - low) * (1 + math.cos(math.pi * share)) / 2
