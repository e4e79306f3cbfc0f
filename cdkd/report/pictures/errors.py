"""Errors at the last epoch: every seed's, and the differences to a baseline with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cdkd.report.collect import TEACHER
from cdkd.report.notes import excluded
from cdkd.report.pictures.common import PERCENT, students
from cdkd.report.statistics import Paired
from cdkd.report.style import COLOURS, GREY
from cdkd.report.summary import BASELINES, Row, differences
from cdkd.report.tables import lowest
from cdkd.report.wording import LONE, decimals, interval_text, mean_std

RESULT = {
    "lower": "fewer errors",
    "higher": "more errors",
    "undecided": "undecided",
    "no_spread": "no test",
    **LONE,
}


def errors(rows: Mapping[str, Row]) -> Figure | None:
    """A point for each seed's last-epoch error, a line at the mean, the numbers to the right."""
    methods = students(rows)
    if not any(rows[name].top1.n for name in methods):
        return None
    figure, axes = _lines_of(rows, methods, 6.2)
    best = lowest(list(rows.values()))
    for line, name in enumerate(methods):
        row = rows[name]
        colour = COLOURS[1] if row is best else COLOURS[0]
        spread = max(1, len(row.runs) - 1)  # equal errors stay apart
        heights = [line + 0.3 * (index / spread - 0.5) for index, run in enumerate(row.runs) if run.ok]
        style: dict[str, Any] = {"color": colour, "markersize": 5, "alpha": 0.7, "markeredgewidth": 0}
        axes.plot(list(row.errors.values()), heights, "o", **style)
        if row.top1.mean is not None:
            mean = [row.top1.mean] * 2
            axes.plot(mean, [line - 0.32, line + 0.32], color=colour, linewidth=1.6, solid_capstyle="butt")
        number = f"{mean_std(row.top1)} (n = {row.top1.n})" if row.top1.n else ""
        _to_the_right(axes, line, "; ".join(filter(None, (number, excluded(row.runs)))))
    teacher = rows[TEACHER].top1.mean
    if teacher is not None:
        axes.axvline(teacher, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        above: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
        axes.annotate(f"teacher {teacher:.2f}", (teacher, 1), fontsize=8, color=GREY, **above)
    axes.set_xlabel(f"{PERCENT} at the last epoch; line: mean")
    axes.margins(x=0.06)
    return figure


def forest(rows: Mapping[str, Row]) -> Figure | None:
    """Mean difference to the baseline with its 95 % interval, seeds as small points, the result."""
    tested = (row.minus for row in rows.values())
    bases = {base for minus in tested for base, paired in minus.items() if paired.n}
    base = next((base for base in BASELINES if base in bases), None)
    if base is None:
        return None
    methods = [name for name in students(rows) if base in rows[name].minus]
    figure, axes = _lines_of(rows, methods, 5.2)
    left, right = _limits([rows[name].minus[base] for name in methods], rows, methods, base)
    for line, name in enumerate(methods):
        paired = rows[name].minus[base]
        colour = COLOURS[0] if paired.verdict in ("lower", "higher") else GREY
        points = list(differences(rows[name], rows[base]).values())
        small: dict[str, Any] = {"color": colour, "markersize": 3, "alpha": 0.6, "markeredgewidth": 0}
        axes.plot(points, [line + 0.22] * len(points), "o", **small)
        _interval(axes, line, paired, left, right, colour)
        if paired.mean is not None:
            axes.plot(paired.mean, line, "o", color=colour, markersize=6.5, markeredgewidth=0)
        _to_the_right(axes, line, _result(paired))
    axes.axvline(0, color=GREY, linewidth=1)
    for text, offset, align in (("fewer errors ←", -6, "right"), ("→ more errors", 6, "left")):
        above: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "va": "bottom",
        }
        axes.annotate(text, (0, 1), (offset, 2), ha=align, fontsize=8, color=GREY, **above)
    margin = 0.04 * (right - left) or 1.0  # where all differences are 0
    axes.set_xlim(left - margin, right + margin)
    axes.set_xlabel(f"top-1 error minus that of {rows[base].title}, seed by seed (points)")
    return figure


def _lines_of(rows: Mapping[str, Row], methods: list[str], width: float) -> tuple[Figure, Axes]:
    """Axes with one line a method."""
    figure = Figure(figsize=(width, 0.36 * len(methods) + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(
        yticks=range(len(methods)),
        yticklabels=[rows[name].title for name in methods],
        ylim=(len(methods) - 0.5, -0.5),
    )
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _to_the_right(axes: Axes, line: float, text: str) -> None:
    axes.annotate(text, (1.02, line), xycoords=("axes fraction", "data"), va="center", fontsize=8)


def _limits(
    pairs: list[Paired], rows: Mapping[str, Row], methods: list[str], base: str
) -> tuple[float, float]:
    """From the seeds' differences: the interval of two seeds is tens of points long and is cut."""
    seen = [0.0, *(value for name in methods for value in differences(rows[name], rows[base]).values())]
    ends = [end for paired in pairs for end in (paired.low, paired.high) if end is not None]
    margin = max(max(map(abs, seen)), 1e-3)
    left = max(min(seen) - margin, min([*seen, *ends]))
    return left, min(max(seen) + margin, max([*seen, *ends]))


def _interval(axes: Axes, line: int, paired: Paired, left: float, right: float, colour: str) -> None:
    if paired.low is None or paired.high is None:
        return
    ends = [max(paired.low, left), min(paired.high, right)]
    axes.plot(ends, [line, line], color=colour, linewidth=1.6, solid_capstyle="butt")
    for end, beyond, marker in ((left, paired.low < left, "<"), (right, paired.high > right, ">")):
        if beyond:
            axes.plot(end, line, marker, color=colour, markersize=5, markeredgewidth=0, clip_on=False)


def _result(paired: Paired) -> str:
    if not paired.n:
        return "no seed in common"
    inside = f" [{interval_text(paired, sign=True)}]" if paired.low is not None else ""
    corrected = " after correction" * paired.suggestive
    return f"{decimals(paired.mean, sign=True)}{inside}: {RESULT[paired.verdict]}{corrected}"
