"""Runs of several teachers, crossed with seeds: means, comparisons, and the variance split between the two.

With one teacher the values of a method are a list over seeds, and everything is as in `statistics`. With
several they are a table, teachers × seeds: two-way random effects (see `crossed`). Every interval and test is
then over both, because six students of two teachers are not six independent values.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cdkd.report.crossed import Crossed, Interval
from cdkd.report.statistics import Paired, Summary, compare, holm, summarise

if TYPE_CHECKING:
    from cdkd.config.teachers import Key

Name = TypeVar("Name", bound=Hashable)


def table_of(values: Mapping[Key, float]) -> Crossed | None:
    """Teachers × seeds, of the seeds that all teachers have; None below two of each, or of one teacher."""
    teachers, seeds = _sides(values)
    if len(teachers) < 2 or len(seeds) < 2:
        return None
    return Crossed(np.array([[values[teacher, seed] for seed in seeds] for teacher in teachers]))


def _sides(values: Mapping[Key, float]) -> tuple[list[int], list[int]]:
    """The teachers, and the seeds that all of them have."""
    keys = {key for key in values if isinstance(key, tuple)}
    teachers = sorted({teacher for teacher, _ in keys})
    seeds = sorted({seed for _, seed in keys})
    return teachers, [seed for seed in seeds if all((one, seed) in keys for one in teachers)]


def _few(values: Mapping[Key, float]) -> str:
    """See `Summary`."""
    teachers, seeds = _sides(values)
    return "one_teacher" if len(teachers) == 1 else "one_seed" if teachers and len(seeds) < 2 else ""


def summarise_runs(values: Mapping[Key, float]) -> Summary:
    """The mean with its interval, over seeds, or over teachers and seeds."""
    found = summarise(list(values.values()))
    if not _several(values):
        return found
    table = table_of(values)
    return replace(found, **ends(None if table is None else table.interval("both")), few=_few(values))


def compare_runs(
    differences: Mapping[Name, Mapping[Key, float]], looks: tuple[int, ...] = ()
) -> dict[Name, Paired]:
    """The test of every comparison; all together are the family of Holm's correction. looks: see `compare`"""
    found = compare({name: list(values.values()) for name, values in differences.items()}, looks)
    if not any(map(_several, differences.values())):
        return found
    tables = {name: table_of(values) for name, values in differences.items()}
    both = {name: None if table is None else table.interval("both") for name, table in tables.items()}
    tested = {name: one.p for name, one in both.items() if one is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {
        name: replace(
            paired,
            **ends(both[name]),
            few=_few(differences[name]),
            p=tested.get(name),
            holm=corrected.get(name),
            effect=None,
            family=max(1, len(tested)),
            further_seeds=None,
            estimated=False,
        )
        for name, paired in found.items()
    }


def _several(values: Mapping[Key, float]) -> bool:
    return any(isinstance(key, tuple) for key in values)


def ends(interval: Interval | None) -> dict[str, Any]:
    return {"low": interval and interval.low, "high": interval and interval.high}


def split_of(values: Mapping[Key, float]) -> dict[str, float] | None:
    """Estimated standard deviations of teacher, seed and rest."""
    table = table_of(values)
    if table is None:
        return None
    parts = {"teacher": table.rows, "seed": table.columns, "rest": table.rest}
    return {name: math.sqrt(variance) for name, variance in parts.items()}
