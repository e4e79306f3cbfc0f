"""Means, intervals and comparisons over seeds.

Student's t is from scipy.special, which loads faster than scipy.stats; the tests compare the two. It is
imported where it is used: reading a `Summary` does not need it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar

import numpy as np

from cdkd.report import sequential

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # of every family of tests
ROUNDING = 1e-9  # a spread below this (in points) is rounding
MAX_SEEDS = 1000  # largest number of seeds that is estimated

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """n values: their mean, sample standard deviation (ddof 1), and t interval of the mean.

    std, low and high are None below two values. low and high are also None where all values are equal,
    because equal values do not prove certainty.
    few: "one_seed" or "one_teacher", where runs of several teachers have only that and nothing is tested
    """

    mean: float | None
    std: float | None
    n: int
    low: float | None = None
    high: float | None = None
    few: str = field(default="", kw_only=True)

    @property
    def lone(self) -> str:
        """one_seed | one_teacher, where nothing can be tested because there is only one; else empty."""
        return self.few or "one_seed" * (self.n < 2)


@dataclass(frozen=True)
class Paired(Summary):
    """Differences between two methods, seed by seed, and their paired t test.

    p: two-sided; holm: p after Holm's correction over its family
    effect: Cohen's d_z with Hedges' correction, of three pairs or more
    looks: numbers of seeds at which they could have ended; p, low and high are corrected for that
    further_seeds: seeds to add until the same mean difference and spread would be significant at the family's
        strictest level, ALPHA / family; None above MAX_SEEDS
    estimated: whether further_seeds was estimated; not over several teachers
    """

    p: float | None = None
    holm: float | None = None
    effect: float | None = None
    family: int = 1
    further_seeds: int | None = None
    looks: tuple[int, ...] = ()
    estimated: bool = True

    @property
    def verdict(self) -> str:
        """none | one_seed | one_teacher | no_spread | lower | higher | undecided; the level is 5 %."""
        if self.mean is None:
            return "none"
        if self.lone:
            return self.lone
        if self.holm is None:
            return "no_spread"
        if self.holm >= ALPHA:
            return "undecided"
        return "lower" if self.mean < 0 else "higher"

    @property
    def suggestive(self) -> bool:
        """Undecided in its family, significant if it were the only comparison."""
        return self.verdict == "undecided" and self.p is not None and self.p < ALPHA


def summarise(values: Sequence[float]) -> Summary:
    mean, spread = _moments(values)
    if mean is None or not spread:
        return Summary(mean, spread, len(values))
    half = _half_width(len(values), 1 - LEVEL) * spread
    return Summary(mean, spread, len(values), mean - half, mean + half)


def compare(differences: Mapping[Key, Sequence[float]], looks: tuple[int, ...] = ()) -> dict[Key, Paired]:
    """The paired t test of every comparison; all together are the family of Holm's correction.

    looks: numbers of seeds at which they could have ended; p values and intervals are corrected for that
    """
    found = {key: Paired(*_moments(values), len(values), looks=looks) for key, values in differences.items()}
    lengths: dict[int, list[Key]] = {}
    for key, paired in found.items():
        if paired.std:
            lengths.setdefault(paired.n, []).append(key)
    for keys in lengths.values():  # all of one length at once: thousands of single calls take seconds
        from scipy.special import stdtr

        n = found[keys[0]].n
        means, stds = (np.array([getattr(found[key], name) for key in keys]) for name in ("mean", "std"))
        t = means / (stds / math.sqrt(n))
        half = _half_width(n, sequential.each_look(looks, 1 - LEVEL) if looks else 1 - LEVEL) * stds
        p = [sequential.corrected(looks, one) for one in (2 * stdtr(n - 1, -np.abs(t))).tolist()]
        columns = (keys, p, (means - half).tolist(), (means + half).tolist())
        for key, one, low, high in zip(*columns, strict=True):
            found[key] = replace(found[key], p=one, low=low, high=high)
    tested = {key: paired.p for key, paired in found.items() if paired.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    family = max(1, len(tested))
    return {
        key: replace(
            paired,
            family=family,
            holm=corrected[key],
            effect=_effect(paired),
            further_seeds=_further_seeds(paired, family),
        )
        if key in tested
        else replace(paired, family=family)
        for key, paired in found.items()
    }


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the i-th smallest of m times m - i + 1, monotone, at most 1."""
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    corrected = np.empty(len(p))
    corrected[order] = steps
    return [float(value) for value in corrected]


def _moments(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; a spread that is only rounding counts as 0."""
    if not values:
        return None, None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), 0.0 if spread is not None and spread < ROUNDING else spread


def _effect(paired: Paired) -> float | None:
    """Mean over standard deviation of the differences (d_z), times Hedges' exact correction for few pairs."""
    if paired.mean is None or not paired.std or paired.n < 3:
        return None
    return paired.mean / paired.std * _hedges(paired.n - 1)


@cache
def _hedges(freedom: int) -> float:
    from scipy.special import poch

    return float(poch((freedom - 1) / 2, 0.5) / math.sqrt(freedom / 2))


def _further_seeds(paired: Paired, family: int) -> int | None:
    """Seeds to add, at this mean and spread, until |t| exceeds its two-sided bound at ALPHA / family."""
    if not paired.mean or not paired.std:
        return None
    enough = np.flatnonzero(_half_widths(ALPHA / family, paired.looks) * paired.std < abs(paired.mean))
    return max(0, int(enough[0]) + 2 - paired.n) if len(enough) else None


@cache
def _half_width(n: int, level: float) -> float:
    """Of the t interval of n values with standard deviation 1, which misses the mean at this level."""
    return sequential.critical(n, level) / math.sqrt(n)


@cache
def _half_widths(alpha: float, looks: tuple[int, ...]) -> np.ndarray:
    """The t interval's half-width in standard deviations, for 2, 3, ... MAX_SEEDS values."""
    from scipy.special import stdtrit

    alpha = sequential.each_look(looks, alpha) if looks else alpha
    n = np.arange(2, MAX_SEEDS + 1)
    return np.asarray(stdtrit(n - 1, 1 - alpha / 2) / np.sqrt(n))


def detectable(std: float, n: int, family: int, looks: tuple[int, ...] = ()) -> float:
    """The mean of n differences with this standard deviation that is just significant at ALPHA / family."""
    return float(_half_widths(ALPHA / family, looks)[min(n, MAX_SEEDS) - 2] * std) if n > 1 else math.inf
