"""The first lines of the report: three sentences that answer what a reader wants to know first."""

from __future__ import annotations

import math
import statistics as stdlib
from collections.abc import Mapping, Sequence

from cdkd.config.params import Params
from cdkd.report.collect import TEACHER
from cdkd.report.document import Text
from cdkd.report.notes import excluded, useless_teacher
from cdkd.report.published import compare_published
from cdkd.report.statistics import detectable
from cdkd.report.summary import BASELINES, Row
from cdkd.report.tables import lowest
from cdkd.report.wording import LONE, decimals, join_names, mean_std, plural

DATASETS = {
    "digits": "digits (scikit-learn's)",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "fashion-mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "folder": "image folders",
}

_PUBLISHED = {"yes": "the published value is within our 95 % interval"}


def title(params: Params) -> str:
    """Experiment (unless it has the data set's name), data set, networks, recipe and number of epochs."""
    part = f" ({params.data.train_images} training images)" if params.data.train_images else ""
    name = "" if params.experiment == params.data.source else f"{params.experiment}: "
    data = DATASETS.get(params.data.source, params.data.source)
    pair = f"{params.teacher.network} → {params.student.network}"
    training = params.training
    return f"{name}{data}{part}, {pair}, recipe {training.recipe}, {training.epochs} epochs"


def headline(rows: Mapping[str, Row]) -> tuple[Text, ...]:
    """Which method is best, what is significant, and how far that can be trusted; then what is incomplete."""
    measured = [row for row in rows.values() if row.name != TEACHER and row.top1.mean is not None]
    if not measured:
        return (*_useless(rows), Text("No student has a result yet."))
    sentences = [
        _best(measured, rows),
        *_compared([rows[base] for base in BASELINES if base in rows and _tested(base, measured)], measured),
        _trust(measured),
        *_published([row for row in rows.values() if row.published and row.top1.mean is not None]),
        *_incomplete(list(rows.values())),
    ]
    return (*_useless(rows), *(Text(sentence) for sentence in sentences if sentence))


def _useless(rows: Mapping[str, Row]) -> tuple[Text, ...]:
    found = useless_teacher(rows[TEACHER]) if TEACHER in rows else None
    return () if found is None else (Text(f"{found}."),)


def _best(measured: Sequence[Row], rows: Mapping[str, Row]) -> str:
    best = lowest(measured) or measured[0]
    first = f"{best.title} has the lowest top-1 error: " if len(measured) > 1 else f"{best.title}: "
    text = f"{first}{mean_std(best.top1)} % on the test split (mean over {best.over})"
    others = [
        f"{mean_std(rows[name].top1)} % for {rows[name].title if name != 'student' else 'the student alone'}"
        for name in BASELINES
        if name in rows and name != best.name and rows[name].top1.mean is not None
    ]
    teacher = rows.get(TEACHER)
    text += f", compared with {join_names(others)}" if others else ""
    return text + (f"; the teacher has {mean_std(teacher.top1)} %." if teacher and teacher.top1.n else ".")


def _tested(base: str, measured: Sequence[Row]) -> bool:
    return any(base in row.minus and row.minus[base].mean is not None for row in measured)


def _compared(bases: Sequence[Row], measured: Sequence[Row]) -> list[str]:
    """The methods by what their differences to each baseline show, at 5 % after Holm's correction."""
    results = {
        ("the student alone" if base.name == "student" else base.title): _result(base, measured)
        for base in bases
    }
    if len(set(results.values())) == 1 and len(results) > 1:  # the same for all baselines
        return [f"Compared with {' or '.join(results)}, {next(iter(results.values()))}."]
    return [f"Compared with {name}, {result}." for name, result in results.items()]


def _result(base: Row, measured: Sequence[Row]) -> str:
    groups: dict[str, list[Row]] = {}
    for row in measured:
        if base.name in row.minus and row.minus[base.name].mean is not None:
            groups.setdefault(row.minus[base.name].verdict, []).append(row)

    def listed(rows: Sequence[Row]) -> str:
        return join_names([f"{row.title} ({decimals(row.minus[base.name].mean, sign=True)})" for row in rows])

    significant = [
        f"significantly {word} errors: {listed(groups[kind])}"
        for kind, word in (("lower", "fewer"), ("higher", "more"))
        if kind in groups
    ]
    undecided = len(groups.get("undecided", ()))
    tested = undecided + sum(len(groups.get(kind, ())) for kind in ("lower", "higher"))
    if not tested:
        # of several reasons no_spread, the first by name, is the one that holds for all
        why = LONE["one_seed"] if not groups else LONE.get(min(groups), "the seeds do not differ")
        return f"no difference can be tested: {why}"
    if not significant:
        return f"no difference is significant after correction for {plural(tested, 'comparison')}"
    rest = f"; the other {undecided} differences are not significant" if undecided > 1 else ""
    rest = rest or "; the other difference is not significant" * undecided
    return f"{'; '.join(significant)} (points){rest}"


def _trust(measured: Sequence[Row]) -> str:
    """What such a number of seeds can show."""
    base = next((base for base in BASELINES if _tested(base, measured)), None)
    pairs = [row.minus[base] for row in measured if base is not None and base in row.minus]
    spreads = [paired.std for paired in pairs if paired.std]
    luck = f"the best of {len(measured)} methods is partly luck (selection bias)" if len(measured) > 2 else ""
    if any(run.teacher is not None for row in measured for run in row.runs):
        text = "Intervals and tests are over teachers and seeds"
        return f"{text}, and {luck}." if luck else f"{text}."
    if not spreads:
        return f"{luck[:1].upper()}{luck[1:]}." if luck else ""
    seeds = max(paired.n for paired in pairs)
    family = max(paired.family for paired in pairs)
    points = _roughly(detectable(stdlib.median(spreads), seeds, family, pairs[0].looks))
    text = f"With {plural(seeds, 'seed')}, differences below about {points} point{'s' * (points != '1')}"
    text += " cannot be detected"
    return f"{text}, and {luck}." if luck else f"{text}."


def _roughly(value: float) -> str:
    """One significant digit."""
    return f"{value:.{max(0, -math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _published(rows: Sequence[Row]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.published:
            ours = compare_published(row.published, row.top1, row.best)
            groups.setdefault(_PUBLISHED.get(ours.verdict, ours.verdict.removeprefix("no: ")), []).append(
                f"{row.title} ({decimals(ours.difference, sign=True)})"
            )
    if not groups:
        return []
    parts = "; ".join(f"{verdict}: {join_names(names)}" for verdict, names in groups.items())
    return [f"Ours minus the published values, in points: {parts}."]


def _incomplete(rows: Sequence[Row]) -> list[str]:
    runs = [run for row in rows for run in row.runs]
    counted = sum(run.ok is not None for run in runs)
    missing = [f"{row.title}: {excluded(row.runs)}" for row in rows if excluded(row.runs)]
    return [f"Incomplete: {counted} of {len(runs)} runs count; {'; '.join(missing)}."] if missing else []
