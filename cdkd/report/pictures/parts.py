"""What several pictures share: columns of a history, bands over seeds, axes of epochs, panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cdkd.report.collect import TEACHER, finite
from cdkd.report.style import COLOURS, DASHES, look
from cdkd.report.summary import Row

MOST = 12  # methods that have a panel each; of more, the first
LINES = len(COLOURS) * len(DASHES)  # that can be told apart; of more methods, the first
LEGEND = 24  # names below each other
PERCENT = "top-1 error on the test split (%)"
Band = list[tuple[float, float, float]]  # lowest, mean and highest over the seeds, epoch by epoch


def students(rows: Mapping[str, Row]) -> list[str]:
    """Their places in this list are their looks."""
    return [name for name in rows if name != TEACHER]


def column(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [or_gap(row.get(key)) for row in history]


def or_gap(value: Any) -> float:
    number = finite(value)
    return math.nan if number is None else number


def over_seeds(row: Row, values: Callable[[Mapping[str, Any]], Any]) -> Band:
    """Of what `values` finds in each row of the histories."""
    columns = [[or_gap(values(line)) for line in record.history] for record in row.records]
    return [(min(those), sum(those) / len(those), max(those)) for those in zip(*columns, strict=False)]


def draw_band(axes: Axes, points: Band, place: int, first: int = 0, label: str = "") -> None:
    if not any(math.isfinite(mean) for _, mean, _ in points):
        return
    low, mean, high = zip(*points, strict=True)
    epochs, mine = range(first, first + len(points)), look(place)
    axes.fill_between(epochs, low, high, color=mine.colour, alpha=0.13, linewidth=0)
    axes.plot(epochs, mean, color=mine.colour, linestyle=mine.dashes, label=label)


def epochs_below(axes: Axes, count: int, first: int = 0) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(first - 0.02 * (count - first), max(count - 1, 1) + 0.02 * (count - first))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))


def panels(
    count: int, across: int, width: float, height: float, apart: float = 0.12, lines: float = 0.36
) -> tuple[Figure, list[Axes]]:
    """So many panels with common axes, filled row by row; what is left of the last row stays empty.

    width, height: of one, in inches; apart, lines: between two, sideways and downwards. The panels fill the figure:
    what is written around them lies outside, and `style.both` cuts where it ends. (A layout engine takes seconds.)
    """
    across = min(across, count)
    down = math.ceil(count / across)
    figure = Figure(figsize=((width + apart) * across - apart, (height + lines) * down - lines))
    room = {"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": apart / width, "hspace": lines / height}
    axes = (
        figure.subplots(down, across, squeeze=False, sharex=True, sharey=True, gridspec_kw=room)
        .ravel()
        .tolist()
    )
    for spare in axes[count:]:
        spare.set_visible(False)
    for lowest in axes[max(0, count - across) : count]:  # also those with an empty place below
        lowest.tick_params(labelbottom=True)
    return figure, axes[:count]


def name_axes(figure: Figure, below: str, beside: str, gap: float = 0.42) -> None:
    """One name for the axes of all panels; gap: inches to the left, for the ticks' labels."""
    width, height = figure.get_size_inches()
    figure.supxlabel(below, y=-0.28 / height, va="top", fontsize=9)
    figure.supylabel(beside, x=-gap / width, ha="right", fontsize=9)


def explain_lines(figure: Figure, axes: Axes, cut: bool) -> None:
    """The legend to the right of everything."""
    handles, labels = axes.get_legend_handles_labels()
    note = f"\n(the first {LINES} methods)" if cut else ""
    ncols = math.ceil(len(labels) / LEGEND)
    place = {"ncols": ncols, "loc": "center left", "bbox_to_anchor": (1 + 0.15 / figure.get_figwidth(), 0.5)}
    figure.legend(
        handles,
        labels,
        title="mean, and range over seeds" + note,
        alignment="left",
        handlelength=3,
        borderaxespad=0,
        **place,
    )
