"""The numbers of one method over the seeds whose records count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cdkd.config.every_study import TUNED
from cdkd.config.params import Params
from cdkd.config.teachers import Key
from cdkd.report.collect import TEACHER, FoundRun, number
from cdkd.report.error_analysis import ErrorAnalysis
from cdkd.report.history import History, finite
from cdkd.report.method_names import paper_names
from cdkd.report.over_teachers import compare_runs, summarise_runs
from cdkd.report.published import Reference, find
from cdkd.report.statistics import Paired, Summary, summarise
from cdkd.report.wording import plural
from cdkd.runs.record import Record

__all__ = ["BASELINES", "MEASURES", "Row", "Summary", "differences", "rows"]

# methods that the others are compared with, where params.yaml has them; tuned ones with tuned ones
UNTUNED = ("kd", "student")
BASELINES = (*UNTUNED, *(f"{name}{TUNED}" for name in UNTUNED))
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
    """One method over its seeds, or the teacher. Errors in percent on the test split, differences in points.

    top1, top5: last epoch; best: top-1 error of each seed's best epoch
    minus: baseline -> paired differences in top-1 error at the last epoch, seed by seed
    measures: MEASURES -> over the runs that have it; analyses: key of a run -> its record's error analysis
    unreadable: key of a run -> why the error analysis cannot be used
    tuned: how a search found the method's weights, if one did
    budget: trials and epochs of that search, planned
    """

    name: str
    title: str  # as papers write it
    network: str
    runs: tuple[FoundRun, ...]
    top1: Summary
    top5: Summary
    best: Summary
    minus: Mapping[str, Paired]
    classes: int | None
    parameters: int | None
    multiply_adds: int | None
    measures: Mapping[str, Summary]
    analyses: Mapping[Key, ErrorAnalysis]
    unreadable: Mapping[Key, str]
    published: Reference | None
    tuned: str | None
    budget: str = ""

    @property
    def errors(self) -> dict[Key, float]:
        """Key of a run -> top-1 error at the last epoch."""
        errors = {run.key: number(run.ok, "last", "test_top1_error") for run in self.runs if run.ok}
        return {key: error for key, error in errors.items() if error is not None}

    @property
    def over(self) -> str:
        """What its mean is over: "5 seeds", or "2 teachers × 5 seeds"."""
        keys = list(self.errors)
        teachers = {key[0] for key in keys if isinstance(key, tuple)}
        seeds = {key[1] if isinstance(key, tuple) else key for key in keys}
        return f"{len(teachers)} teachers × " * bool(teachers) + plural(len(seeds), "seed")

    @property
    def wrong(self) -> dict[int, np.ndarray]:
        """Seed -> whether each test image is classified wrongly, of the runs that have predictions.

        Empty of several teachers: nothing here tests over images, seeds and teachers at once.
        """
        if any(run.teacher is not None for run in self.runs):
            return {}
        return {run.seed: run.wrong for run in self.runs if run.ok and run.wrong is not None}

    @property
    def records(self) -> list[Record]:
        return [run.ok for run in self.runs if run.ok]

    @property
    def histories(self) -> list[History]:
        return [run.history for run in self.runs if run.ok]


def rows(
    params: Params, found: Mapping[str, tuple[FoundRun, ...]], tuned: Mapping[str, str] | None = None
) -> dict[str, Row]:
    """A row for the teacher and every method, in the order of params."""
    titles = paper_names(name for name in found if name != TEACHER)
    titles[TEACHER] = f"Teacher ({params.teacher.network})"
    alone = {
        name: _row(params, name, titles[name], runs, (tuned or {}).get(name)) for name, runs in found.items()
    }
    students = {name: row for name, row in alone.items() if name != TEACHER}
    minus: dict[str, dict[str, Paired]] = {name: {} for name in alone}
    for base in BASELINES:
        if base in students:  # one family of tests: every other method against this one
            family = compare_runs(
                {
                    name: differences(row, students[base])
                    for name, row in students.items()
                    if name != base and _comparable(params, name, base, students)
                },
                params.looks,
            )
            for name, paired in family.items():
                minus[name][base] = paired
    return {name: replace(row, minus=minus[name]) for name, row in alone.items()}


def _comparable(params: Params, name: str, base: str, students: Mapping[str, Row]) -> bool:
    """Whether both were tuned, or the baseline was tuned for no method; see `config.every_study`."""
    tuned = any(space.study.method == name for space in params.search.values())
    return tuned if base not in UNTUNED else not tuned or f"{base}{TUNED}" not in students


def differences(row: Row, base: Row) -> dict[Key, float]:
    """Top-1 error at the last epoch minus the other's, for every seed (and teacher) that both have."""
    mine, theirs = row.errors, base.errors
    return {key: mine[key] - theirs[key] for key in mine if key in theirs}


def _row(params: Params, name: str, title: str, runs: tuple[FoundRun, ...], tuned: str | None) -> Row:
    records = [run.ok for run in runs if run.ok]

    def over_seeds(row: str, key: str) -> Summary:
        values = {run.key: number(run.ok, row, key) for run in runs if run.ok}
        return summarise_runs({key: value for key, value in values.items() if value is not None})

    def constant(key: str) -> int | None:
        values = [value for record in records if (value := finite(record.result.get(key))) is not None]
        return int(values[0]) if values else None

    analyses = {run.key: run.analysis for run in runs if run.analysis is not None}
    return Row(
        name=name,
        title=title if not tuned or title.endswith("(tuned)") else f"{title} (tuned)",
        network=params.teacher.network if name == TEACHER else _deployed(params, name),
        runs=runs,
        top1=over_seeds("last", "test_top1_error"),
        top5=over_seeds("last", "test_top5_error"),
        best=over_seeds("best", "test_top1_error"),
        minus={},
        classes=next(filter(None, map(_classes, records)), None),
        parameters=constant("parameters"),
        multiply_adds=constant("multiply_adds"),
        measures={key: _over(getattr(one, key) for one in analyses.values()) for key in MEASURES},
        analyses=analyses,
        unreadable={run.key: run.unreadable for run in runs if run.unreadable},
        published=find(params.report.published, name),
        tuned=tuned,
        budget=_budget(params, name),
    )


def _budget(params: Params, name: str) -> str:
    space = next((one for one in params.search.values() if one.study.method == name), None)
    if space is None:
        return ""
    seeds = f" × {len(space.study.seeds)} seeds" * (len(space.study.seeds) > 1)
    return f"{space.trials} × {space.trial_epochs} epochs{seeds}"


def _deployed(params: Params, name: str) -> str:
    """The network that a method deploys; of a group it may be another than the student's."""
    group = getattr(params.methods.get(name), "group", None)
    return params.student.network if group is None else group.networks[group.deployed]


def _classes(record: Record) -> int | None:
    data = record.config.get("data") if isinstance(record.config, dict) else None
    classes = finite(data.get("classes")) if isinstance(data, dict) else None
    return None if classes is None else int(classes)


def _over(values: Iterable[float | None]) -> Summary:
    return summarise([value for value in values if value is not None])
