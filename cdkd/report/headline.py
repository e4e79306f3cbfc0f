"""What the experiment says, in the few sentences that a reader takes away."""

from __future__ import annotations

from collections.abc import Sequence

from cdkd.config.params import Params
from cdkd.report.collect import TEACHER
from cdkd.report.document import Items, Text
from cdkd.report.notes import faults
from cdkd.report.phrases import fixed, interval, listed, shown
from cdkd.report.published import against
from cdkd.report.summary import BASELINES, Row

DATASETS = {
    "digits": "digits (scikit-learn's)",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "fashion-mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "folder": "image folders",
}
SAID = {
    "lower": "fewer errors",
    "higher": "more errors",
    "suggestive": "suggestive only (its own interval excludes 0; corrected for all comparisons it is open)",
    "undecided": "undecided",
    "flat": "no spread to judge by",
    "one": "one seed, nothing to say of chance",
}
NUMBER = (
    "The number is the last epoch's top-1 error on the test split, mean over the seeds; nothing here was chosen on the test split. "
    "Best epochs stand beside it, so named, because some sources report them."
)


def title(params: Params) -> str:
    """Data set, pair and recipe by name; the experiment's own name where that is another."""
    part = f" ({params.data.train_images} training images)" if params.data.train_images else ""
    name = "" if params.experiment == params.data.source else f"{params.experiment}: "
    return f"{name}{DATASETS[params.data.source]}{part}, {params.teacher.network} → {params.student.network}, recipe {params.training.recipe}"


def headline(rows: Sequence[Row]) -> tuple[Items | Text, ...]:
    students = [row for row in rows if row.name != TEACHER]
    measured = [row for row in students if row.top1.mean is not None]
    if not measured:
        return (Text("No student has a result yet."),)
    items = [("Lowest error", _lowest(measured, rows))]
    items += [
        (f"Against {base}", _against(base, measured))
        for base in BASELINES
        if any(base in row.minus for row in measured)
    ]
    compared = [row for row in rows if row.published and row.top1.mean is not None]
    items += [("Against the published values", _published(compared))] if compared else []
    items += [("Which number", NUMBER), ("Runs", _runs(rows))]
    return (Items(tuple(items)),)


def _lowest(measured: Sequence[Row], rows: Sequence[Row]) -> str:
    best = min(measured, key=lambda row: row.top1.mean or 0.0)
    text = f"{best.title}, {shown(best.top1)} % (n = {best.top1.n}"
    text += f"; 95 % interval {interval(best.top1)})" if best.top1.low is not None else ")"
    others = [
        f"{row.title} {shown(row.top1)} %"
        for row in rows
        if row.name in (TEACHER, *BASELINES) and row is not best and row.top1.mean is not None
    ]
    luck = f" The lowest of {len(measured)} means favours luck." if len(measured) > 2 else ""
    return f"{text}. For comparison: {', '.join(others)}.{luck}" if others else f"{text}.{luck}"


def _against(base: str, measured: Sequence[Row]) -> str:
    """The methods by what their differences to one baseline say, at 5 % after Holm's correction."""
    groups: dict[str, list[str]] = {}
    for row in measured:
        if base in row.minus and row.minus[base].verdict != "none":
            paired = row.minus[base]
            said = "suggestive" if paired.suggestive else paired.verdict
            groups.setdefault(said, []).append(f"{row.title} ({fixed(paired.mean, sign=True)})")
    parts = [f"{said}: {listed(groups[verdict])}" for verdict, said in SAID.items() if verdict in groups]
    return "; ".join(parts) + ". In brackets: mean difference in points." if parts else "no seed in common."


def _published(compared: Sequence[Row]) -> str:
    groups: dict[str, list[str]] = {}
    for row in compared:
        if row.published:
            ours = against(row.published, row.top1, row.best)
            groups.setdefault(ours.verdict, []).append(f"{row.title} ({fixed(ours.difference, sign=True)})")
    return "; ".join(f"{said}: {listed(names)}" for said, names in groups.items()) + "."


def _runs(rows: Sequence[Row]) -> str:
    runs = [run for row in rows for run in row.runs]
    counted = sum(run.ok is not None for run in runs)
    missing = [f"{row.title}: {faults(row.runs)}" for row in rows if faults(row.runs)]
    return f"{counted} of {len(runs)} count" + (f"; {'; '.join(missing)}." if missing else ".")
