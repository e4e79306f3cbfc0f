"""Statistics of a report: a row of numbers for every method, over the seeds whose records count."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdkd.params import Params
from cdkd.report.collect import TEACHER, Found, finite, number
from cdkd.report.published import Reference, find

BASELINES = ("kd", "student")  # the rows that others are compared to, where params have them


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof 1; None below two values) of n values."""

    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """One method over its seeds, or the teacher. Errors in percent on the test split, differences in points."""

    name: str
    network: str
    runs: tuple[Found, ...]
    top1: Summary  # last epoch
    top5: Summary  # last epoch
    best: Summary  # top-1 error of each seed's best epoch
    minus: Mapping[str, Summary]  # baseline -> paired differences in top-1 error at the last epoch, seed by seed
    parameters: int | None
    multiply_adds: int | None
    images_per_second: float | None
    published: Reference | None


def summarise(values: Sequence[float]) -> Summary:
    return Summary(statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None, len(values))


def rows(params: Params, found: Mapping[str, tuple[Found, ...]]) -> dict[str, Row]:
    """A row for the teacher and every method, in the order of params."""
    return {name: _row(params, name, found) for name in found}


def _row(params: Params, name: str, found: Mapping[str, tuple[Found, ...]]) -> Row:
    records = [run.record for run in found[name] if run.ok and run.record]

    def over_seeds(row: str, key: str) -> Summary:
        return summarise([value for record in records if (value := number(record, row, key)) is not None])

    def whole(key: str) -> int | None:
        values = [value for record in records if (value := finite(record.result.get(key))) is not None]
        return int(values[0]) if values else None

    rates = [value for record in records if (value := finite(record.circumstances.get("images_per_second"))) is not None]
    return Row(
        name=name,
        network=params.teacher.network if name == TEACHER else params.student.network,
        runs=found[name],
        top1=over_seeds("last", "test_top1_error"),
        top5=over_seeds("last", "test_top5_error"),
        best=over_seeds("best", "test_top1_error"),
        minus={base: _paired(found[name], found[base]) for base in BASELINES if base in params.methods and name not in (base, TEACHER)},
        parameters=whole("parameters"),
        multiply_adds=whole("multiply_adds"),
        images_per_second=summarise(rates).mean,
        published=find(params.report.published, name),
    )


def _paired(ours: tuple[Found, ...], base: tuple[Found, ...]) -> Summary:
    def errors(runs: tuple[Found, ...]) -> dict[int, float]:
        return {run.seed: error for run in runs if run.ok and (error := number(run.ok, "last", "test_top1_error")) is not None}

    mine, theirs = errors(ours), errors(base)
    return summarise([mine[seed] - theirs[seed] for seed in mine if seed in theirs])
