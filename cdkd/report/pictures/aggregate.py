"""Methods over several pairs: the gap closed and the mean rank, with their intervals."""

from __future__ import annotations

from matplotlib.figure import Figure

from cdkd.report.aggregate import Aggregate, Estimate, ordered
from cdkd.report.method_names import paper_names
from cdkd.report.style import COLOURS, GREY


def aggregate(found: Aggregate) -> Figure:
    """Two panels with one line a method, the best at the top."""
    names = ordered(found)
    titles = paper_names(names)
    figure = Figure(figsize=(8.4, 0.36 * len(names) + 0.9))
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    panels = (
        (left, found.iqm, 100.0, "gap between student and teacher closed, IQM (%)"),
        (right, found.rank, 1.0, "mean rank (1: the fewest errors)"),
    )
    for axes, values, scale, text in panels:
        for line, name in enumerate(names):
            one: Estimate = values[name]
            axes.plot(
                [scale * one.low, scale * one.high], [line, line], color=COLOURS[0], solid_capstyle="butt"
            )
            axes.plot(scale * one.value, line, "o", color=COLOURS[0], markersize=6, markeredgewidth=0)
        axes.set_xlabel(text)
        axes.tick_params(axis="y", length=0)
    left.axvline(0, color=GREY, linewidth=1)
    left.set(
        yticks=range(len(names)), yticklabels=[titles[name] for name in names], ylim=(len(names) - 0.5, -0.5)
    )
    return figure
