"""A row of numbers for every method, over the seeds whose records count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cdkd.config.params import Params
from cdkd.report.collect import TEACHER, Found, finite, number
from cdkd.report.examined import Examined, examined
from cdkd.report.published import Reference, find
from cdkd.report.statistics import Paired, Summary, compare, summarise
from cdkd.runs.record import Record

__all__ = ["BASELINES", "MEASURES", "Row", "Summary", "cost", "differences", "rows"]

BASELINES = ("kd", "student")  # the rows that others are compared to, where params have them
MEASURES = (
    "calibration_error",
    "agreement",
    "kl",
    "teacher_right_error",
    "teacher_wrong_error",
    "same_mistake",
)


@dataclass(frozen=True)
class Row:
    """One method over its seeds, or the teacher. Errors in percent on the test split, differences in points."""

    name: str
    network: str
    runs: tuple[Found, ...]
    top1: Summary  # last epoch
    top5: Summary  # last epoch
    best: Summary  # top-1 error of each seed's best epoch
    minus: Mapping[
        str, Paired
    ]  # baseline -> paired differences in top-1 error at the last epoch, seed by seed
    parameters: int | None
    multiply_adds: int | None
    images_per_second: float | None
    seconds: Summary  # of a run: the cohort's wall time, shared equally among its methods
    latency: Summary  # milliseconds of one image's forward pass
    beyond: Mapping[str, Summary]  # MEASURES -> over the seeds that have it
    examined: Mapping[int, Examined]  # seed -> what else its record says
    unreadable: Mapping[int, str]  # seed -> why that cannot be read
    published: Reference | None
    tuned: str | None  # how its weights were found, where a search found them

    @property
    def title(self) -> str:
        return (
            f"{TEACHER} ({self.network})"
            if self.name == TEACHER
            else self.name + " (tuned)" * bool(self.tuned)
        )

    @property
    def errors(self) -> dict[int, float]:
        """Seed -> top-1 error at the last epoch."""
        return {
            run.seed: error
            for run in self.runs
            if run.ok and (error := number(run.ok, "last", "test_top1_error")) is not None
        }

    @property
    def records(self) -> list[Record]:
        return [run.ok for run in self.runs if run.ok]


def rows(
    params: Params, found: Mapping[str, tuple[Found, ...]], tuned: Mapping[str, str] | None = None
) -> dict[str, Row]:
    """A row for the teacher and every method, in the order of params."""
    alone = {name: _row(params, name, runs, (tuned or {}).get(name)) for name, runs in found.items()}
    students = {name: row for name, row in alone.items() if name != TEACHER}
    minus: dict[str, dict[str, Paired]] = {name: {} for name in alone}
    for base in BASELINES:
        if base in students:  # one family of tests: every other method against this one
            family = compare(
                {name: differences(row, students[base]) for name, row in students.items() if name != base}
            )
            for name, paired in family.items():
                minus[name][base] = paired
    return {name: replace(row, minus=minus[name]) for name, row in alone.items()}


def differences(row: Row, base: Row) -> list[float]:
    """Top-1 error at the last epoch minus the other's, for every seed that both have."""
    mine, theirs = row.errors, base.errors
    return [mine[seed] - theirs[seed] for seed in mine if seed in theirs]


def _row(params: Params, name: str, runs: tuple[Found, ...], tuned: str | None) -> Row:
    records = [run.ok for run in runs if run.ok]

    def over_seeds(row: str, key: str) -> Summary:
        return _over(number(record, row, key) for record in records)

    def whole(key: str) -> int | None:
        values = [value for record in records if (value := finite(record.result.get(key))) is not None]
        return int(values[0]) if values else None

    found: dict[int, Examined] = {}
    unreadable: dict[int, str] = {}
    for run in runs:
        try:
            if run.ok and (more := examined(run.ok)) is not None:
                found[run.seed] = more
        except ValueError as error:
            unreadable[run.seed] = str(error)
    return Row(
        name=name,
        network=params.teacher.network if name == TEACHER else params.student.network,
        runs=runs,
        top1=over_seeds("last", "test_top1_error"),
        top5=over_seeds("last", "test_top5_error"),
        best=over_seeds("best", "test_top1_error"),
        minus={},
        parameters=whole("parameters"),
        multiply_adds=whole("multiply_adds"),
        images_per_second=_over(
            finite(record.circumstances.get("images_per_second")) for record in records
        ).mean,
        seconds=_over(cost(record) for record in records),
        latency=_over(finite(record.circumstances.get("latency_ms")) for record in records),
        beyond={key: _over(getattr(more, key) for more in found.values()) for key in MEASURES},
        examined=found,
        unreadable=unreadable,
        published=find(params.report.published, name),
        tuned=tuned,
    )


def cost(record: Record) -> float | None:
    """Seconds of training: the cohort's, shared equally among the methods that were trained side by side."""
    seconds, cohort = finite(record.circumstances.get("seconds")), record.circumstances.get("cohort")
    return None if seconds is None else seconds / (len(cohort) if isinstance(cohort, list) and cohort else 1)


def _over(values: Iterable[float | None]) -> Summary:
    return summarise([value for value in values if value is not None])
