"""Networks that were trained together: their diversity and their errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cdkd.report.history import History
from cdkd.report.pictures.common import epoch_axis, over_seeds, students
from cdkd.report.style import COLOURS, GREY, line_style
from cdkd.report.summary import Row


def peers(rows: Mapping[str, Row]) -> Figure | None:
    """Diversity over the epochs; at the last epoch errors of all networks and ensembles, mean over seeds."""
    bands = {name: over_seeds(rows[name], lambda run: run.column("diversity")) for name in students(rows)}
    groups = [name for name, band in bands.items() if band is not None]
    if not groups:
        return None
    figure = Figure(figsize=(10, max(3.2, 0.32 * len(groups) + 1)))
    over, last = figure.subplots(
        1, 2, gridspec_kw={"left": 0.07, "right": 0.985, "top": 0.91, "bottom": 0.15, "wspace": 0.28}
    )
    for place, name in enumerate(groups):
        low, mean, high = bands[name] or ([], [], [])
        look = line_style(place)
        over.plot(mean, color=look.colour, linestyle=look.dashes, label=rows[name].title)
        over.fill_between(range(len(mean)), low, high, color=look.colour, alpha=0.15, linewidth=0)
    epoch_axis(over, max(len(band[1]) for band in bands.values() if band is not None))
    over.set(
        title="diversity of the networks' answers", ylabel="mean distance of probabilities", ylim=(0, None)
    )
    over.legend(fontsize=7, ncols=2)
    _last_errors(last, groups, rows)
    return figure


def _last_errors(axes: Axes, groups: list[str], rows: Mapping[str, Row]) -> None:
    """A line for each method: networks as points, ensembles as crosses, the deployed network as a ring."""
    for place, name in enumerate(groups):
        histories = rows[name].histories
        for kind, marker, colour in (("peers", "o", COLOURS[0]), ("ensembles", "x", COLOURS[1])):
            values = [_last(histories, kind, one) for one in histories[0].names(kind)]
            axes.plot(values, [place] * len(values), marker, color=colour, label=None if place else kind)
        deployed = _last(histories, "test_top1_error")
        label = None if place else "the deployed network"
        axes.plot([deployed], [place], "o", markersize=10, fillstyle="none", color=GREY, label=label)
    axes.set_yticks(range(len(groups)), [rows[name].title for name in groups])
    axes.invert_yaxis()
    axes.set(title="last epoch, mean over seeds", xlabel="top-1 error (%)")
    axes.legend(fontsize=7)


def _last(histories: list[History] | tuple[History, ...], *path: str) -> float:
    return float(np.mean([history.column(*path)[-1] for history in histories if len(history)]))
