"""What several figures share: highlighted methods, bands over seeds, axes of epochs, grids of panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cdkd.report.collect import TEACHER
from cdkd.report.history import History
from cdkd.report.style import COLOURS, LIGHT, LineStyle, line_style
from cdkd.report.summary import BASELINES, UNTUNED, Row

MAX_PANELS = 12  # methods that have a panel each; of more, the first
PERCENT = "top-1 error on the test split (%)"
Band = tuple[np.ndarray, np.ndarray, np.ndarray]  # lowest, mean and highest over the seeds, epoch by epoch


def students(rows: Mapping[str, Row]) -> list[str]:
    return [name for name in rows if name != TEACHER]


def highlighted(rows: Mapping[str, Row]) -> dict[str, LineStyle]:
    """The methods that have a colour of their own: the baselines and the best, or all if they are few."""
    names = students(rows)
    if len(names) > len(COLOURS):
        measured = [name for name in names if rows[name].top1.mean is not None]
        best = sorted(measured, key=lambda name: rows[name].top1.mean or 0.0)
        baselines = [name for name in BASELINES if name in rows]
        chosen = {*baselines, *best[: len(COLOURS) - 1 - max(len(UNTUNED), len(baselines))]}
        names = [name for name in names if name in chosen]
    return {name: line_style(position) for position, name in enumerate(names)}


def over_seeds(row: Row, values: Callable[[History], np.ndarray]) -> Band | None:
    """Of what `values` takes from each history; None where there is nothing."""
    columns = [values(history) for history in row.histories if len(history)]
    if not columns:
        return None
    epochs = min(map(len, columns))
    stacked = np.stack([column[:epochs] for column in columns])
    if not np.isfinite(stacked).any():
        return None
    return stacked.min(axis=0), stacked.mean(axis=0), stacked.max(axis=0)


def draw_bands(axes: Axes, bands: Mapping[str, Band | None], rows: Mapping[str, Row], first: int = 0) -> None:
    """Highlighted methods as coloured lines with bands, all others as thin grey lines behind them."""
    colours = highlighted(rows)
    others = [band for name, band in bands.items() if name not in colours and band is not None]
    for index, (_, mean, _) in enumerate(others):
        mean = mean[first:]
        label = f"other methods ({len(others)})" if not index else None
        epochs = range(first, first + len(mean))
        axes.plot(epochs, mean, color=LIGHT, linewidth=1, zorder=1.5, label=label)
    for name, style in colours.items():
        band = bands.get(name)
        if band is not None:
            low, mean, high = (values[first:] for values in band)
            epochs = range(first, first + len(mean))
            axes.fill_between(epochs, low, high, color=style.colour, alpha=0.13, linewidth=0)
            label = rows[name].title
            if rows[name].top1.n != len(rows[name].runs):
                label += f" (n = {rows[name].top1.n})"
            axes.plot(epochs, mean, color=style.colour, label=label)


def epoch_axis(axes: Axes, count: int, first: int = 0) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(first - 0.02 * (count - first), max(count - 1, 1) + 0.02 * (count - first))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))


def panels(
    count: int,
    across: int,
    width: float,
    height: float,
    column_gap: float = 0.12,
    row_gap: float = 0.36,
) -> tuple[Figure, list[Axes]]:
    """So many panels with common axes, filled row by row; the rest of the last row stays empty.

    width, height: of one panel; column_gap, row_gap: between two, all in inches. The panels fill the figure.
    Labels are outside it, and `style.svg_and_png` includes them. (matplotlib's layout engines take seconds.)
    """
    across = min(across, count)
    down = math.ceil(count / across)
    figure = Figure(figsize=((width + column_gap) * across - column_gap, (height + row_gap) * down - row_gap))
    space: dict[str, Any] = {"left": 0, "right": 1, "bottom": 0, "top": 1}
    space |= {"wspace": column_gap / width, "hspace": row_gap / height}
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True, gridspec_kw=space)
    axes = grid.ravel().tolist()
    for spare in axes[count:]:
        spare.set_visible(False)
    for lowest in axes[max(0, count - across) : count]:  # also those with an empty place below
        lowest.tick_params(labelbottom=True)
    return figure, axes[:count]


def label_axes(figure: Figure, x: str, y: str, gap: float = 0.42) -> None:
    """One label for the axes of all panels; gap: inches to the left, for the ticks' labels."""
    width, height = figure.get_size_inches()
    figure.supxlabel(x, y=-0.28 / height, va="top", fontsize=9)
    figure.supylabel(y, x=-gap / width, ha="right", fontsize=9)


def line_legend(figure: Figure, axes: Axes) -> None:
    """The legend to the right of all panels; other methods last."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: labels[index].startswith("other methods"))
    figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        title="mean, and range over seeds",
        alignment="left",
        handlelength=2,
        borderaxespad=0,
        loc="center left",
        bbox_to_anchor=(1 + 0.15 / figure.get_figwidth(), 0.5),
    )
