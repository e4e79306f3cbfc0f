"""Planned comparisons under a rule that adds seeds: what each look found, and when each was decided.

Every look gives a repeated confidence interval (Jennison and Turnbull 1989): mean ± c s / sqrt(n), with c of
Student's t at the level that `sequential.each_look` gives for the rule's level, split evenly among the
comparisons (Bonferroni). All intervals of all looks contain the true differences together, but for a chance
of at most `level`. So whatever follows from them is as safe, wherever the looks end: a difference where the
interval leaves 0 out, equivalence where it lies within the margin (two one-sided tests).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdkd.config.seeds import SeedsRule
from cdkd.report.sequential import critical, each_look
from cdkd.report.statistics import summarise

Pair = tuple[str, str]
Errors = Mapping[str, Mapping[int, float | None]]  # method -> seed -> top-1 error; None: the run diverged

ENDS = ("fewer", "more", "equivalent", "diverged")  # after them a comparison is not looked at again


@dataclass(frozen=True)
class Look:
    """One comparison after so many seeds, in points: method minus other.

    low, high: the repeated confidence interval; t, bound: the statistic, and the |t| at which it leaves out 0
    """

    seeds: int
    decision: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    t: float | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Course:
    """looks: of each comparison, up to its decision; seeds: how many are needed so far."""

    looks: Mapping[Pair, tuple[Look, ...]]
    seeds: int

    @property
    def decided(self) -> bool:
        return all(looks and looks[-1].decision in ENDS for looks in self.looks.values())


def course(rule: SeedsRule, errors: Errors) -> Course:
    """The looks as far as there are results. Depends on nothing else, so it can always be made again."""
    each = each_look(rule.looks, rule.level / len(rule.comparisons))
    looks: dict[Pair, list[Look]] = {pair: [] for pair in rule.comparisons}
    seeds = rule.at_least
    for seeds in rule.looks:
        known = all(seed in errors.get(name, {}) for name in rule.methods for seed in range(seeds))
        if not known:
            break
        for (method, other), found in looks.items():
            if not found or found[-1].decision not in ENDS:
                values = [(errors[method][seed], errors[other][seed]) for seed in range(seeds)]
                found.append(_look(values, each, rule.equivalence))
        if all(found[-1].decision in ENDS for found in looks.values()):
            break
    return Course({pair: tuple(found) for pair, found in looks.items()}, seeds)


def _look(values: Sequence[tuple[float | None, float | None]], each: float, margin: float) -> Look:
    differences = [one - other for one, other in values if one is not None and other is not None]
    n = len(values)
    if len(differences) < n:
        return Look(n, "diverged")
    summary = summarise(differences)
    if summary.mean is None or not summary.std:
        return Look(n, "no_spread", summary.mean)
    error, bound = summary.std / math.sqrt(n), critical(n, each)
    low, high = summary.mean - bound * error, summary.mean + bound * error
    inside = -margin < low and high < margin
    decision = "more" if low > 0 else "fewer" if high < 0 else "equivalent" if inside else "undecided"
    return Look(n, decision, summary.mean, low, high, summary.mean / error, bound)
