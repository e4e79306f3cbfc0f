"""Errors at the last epoch: every seed's, and the differences to a baseline with their intervals."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from cdkd.report.collect import TEACHER
from cdkd.report.notes import faults
from cdkd.report.phrases import fixed, shown
from cdkd.report.pictures.parts import PERCENT, students
from cdkd.report.style import GREY, look
from cdkd.report.summary import BASELINES, Row, differences

SETTLED = {
    "lower": "fewer errors",
    "higher": "more errors",
    "undecided": "undecided",
    "flat": "no spread",
    "one": "one seed",
}


def errors(rows: Mapping[str, Row]) -> Figure | None:
    """A point for each seed's last-epoch error, a stroke at the mean, the numbers beside."""
    methods = students(rows)
    if not any(rows[name].top1.n for name in methods):
        return None
    figure = Figure(figsize=(6.2, 0.36 * len(methods) + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    for place, name in enumerate(methods):
        row, mine = rows[name], look(place)
        places = {
            run.seed: place + 0.3 * (index / max(1, len(row.runs) - 1) - 0.5)
            for index, run in enumerate(row.runs)
        }  # equal errors stay apart
        heights = [places[seed] for seed in row.errors]
        axes.plot(
            list(row.errors.values()),
            heights,
            mine.marker,
            color=mine.colour,
            markersize=5,
            alpha=0.75,
            markeredgewidth=0,
        )
        if row.top1.mean is not None:
            axes.plot(
                [row.top1.mean] * 2,
                [place - 0.32, place + 0.32],
                color=mine.colour,
                linewidth=1.6,
                solid_capstyle="butt",
            )
        text = "; ".join(
            filter(None, (f"{shown(row.top1)} (n = {row.top1.n})" if row.top1.n else "", faults(row.runs)))
        )
        axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    teacher = rows[TEACHER].top1.mean
    if teacher is not None:
        axes.axvline(teacher, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            f"teacher {teacher:.2f}",
            (teacher, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=8,
            color=GREY,
        )
    axes.set(
        yticks=range(len(methods)),
        yticklabels=methods,
        ylim=(len(methods) - 0.5, -0.5),
        xlabel=f"{PERCENT} at the last epoch; stroke: mean",
    )
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.06)
    return figure


def forest(rows: Mapping[str, Row]) -> Figure | None:
    """Mean difference to the baseline with its 95 % interval, every seed's difference as a small point, what it says beside."""
    base = next(
        (base for base in BASELINES if any(base in row.minus and row.minus[base].n for row in rows.values())),
        None,
    )
    if base is None:
        return None
    methods = [(place, name) for place, name in enumerate(students(rows)) if base in rows[name].minus]
    figure = Figure(figsize=(5.2, 0.36 * len(methods) + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    seen = [0.0, *(value for _, name in methods for value in differences(rows[name], rows[base]))]
    ends = [
        end
        for _, name in methods
        for end in (rows[name].minus[base].low, rows[name].minus[base].high)
        if end is not None
    ]
    room = max(
        max(map(abs, seen)), 1e-3
    )  # two seeds have intervals of tens of points: what goes on beyond is an arrow
    left, right = max(min(seen) - room, min([*seen, *ends])), min(max(seen) + room, max([*seen, *ends]))
    margin = 0.04 * (right - left)
    for line, (place, name) in enumerate(methods):
        paired, mine = rows[name].minus[base], look(place)
        points = differences(rows[name], rows[base])
        axes.plot(
            points,
            [line + 0.22] * len(points),
            mine.marker,
            color=mine.colour,
            markersize=3,
            alpha=0.6,
            markeredgewidth=0,
        )
        if paired.low is not None and paired.high is not None:
            axes.plot(
                [max(paired.low, left), min(paired.high, right)],
                [line, line],
                color=mine.colour,
                linewidth=1.6,
                solid_capstyle="butt",
            )
            for end, beyond, marker in ((left, paired.low < left, "<"), (right, paired.high > right, ">")):
                if beyond:
                    axes.plot(
                        end, line, marker, color=mine.colour, markersize=5, markeredgewidth=0, clip_on=False
                    )
        if paired.mean is not None:
            axes.plot(paired.mean, line, mine.marker, color=mine.colour, markersize=6.5, markeredgewidth=0)
        inside = (
            f" [{fixed(paired.low, sign=True)}, {fixed(paired.high, sign=True)}]"
            if paired.low is not None
            else ""
        )
        corrected = " after correction" * paired.suggestive
        text = (
            f"{fixed(paired.mean, sign=True)}{inside}, n = {paired.n}: {SETTLED[paired.verdict]}{corrected}"
            if paired.n
            else "no seed in common"
        )
        axes.annotate(text, (1.02, line), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.annotate(
        "fewer errors ←",
        (0, 1),
        (-6, 2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=GREY,
    )
    axes.annotate(
        "→ more errors",
        (0, 1),
        (6, 2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=8,
        color=GREY,
    )
    axes.set(
        yticks=range(len(methods)),
        yticklabels=[name for _, name in methods],
        ylim=(len(methods) - 0.5, -0.5),
        xlim=(left - margin, right + margin),
    )
    axes.set_xlabel(f"top-1 error minus that of {base}, seed by seed (points)")
    axes.tick_params(axis="y", length=0)
    return figure
