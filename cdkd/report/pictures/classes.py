"""Confusions that distillation adds and removes, and reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from cdkd.report.collect import TEACHER
from cdkd.report.pictures.common import MAX_PANELS, label_axes, panels, students
from cdkd.report.style import COLOURS, DIVERGING, GREY, PALE
from cdkd.report.summary import Row

BASE = "student"
MAX_CLASSES = 12  # of a confusion matrix; of more, those that change most


def confusion(rows: Mapping[str, Row], class_names: Sequence[str] = ()) -> Figure | None:
    """Share of a class's images that are predicted as another, minus the student's; without the diagonal."""
    changes = {
        name: _change(rows[name], rows[BASE]) for name in students(rows) if BASE in rows and name != BASE
    }
    found = {name: change for name, change in changes.items() if change is not None}
    found = dict(list(found.items())[:MAX_PANELS])
    if not found or len({change.shape for change in found.values()}) > 1:
        return None
    moved = np.sum([np.abs(change) for change in found.values()], axis=0)
    classes = np.sort(np.argsort(-(moved.sum(axis=0) + moved.sum(axis=1)), kind="stable")[:MAX_CLASSES])
    labels = [class_names[index] if index < len(class_names) else str(index) for index in classes]
    figure, axes_of = panels(len(found), 4, 2.4, 2.4, row_gap=0.5)
    for axes, (name, change) in zip(axes_of, found.items(), strict=True):
        _matrix(axes, rows[name].title, change[np.ix_(classes, classes)], labels)
    longest = 0.065 * max(map(len, labels))  # inches, about
    below = "\n" * round(3 * longest) if max(map(len, labels)) > 3 else ""
    label_axes(figure, f"{below}predicted class", "true class", gap=0.12 + longest)
    return figure


def _matrix(axes: Axes, title: str, change: np.ndarray, labels: Sequence[str]) -> None:
    """On its own colour scale, whose end is in the title."""
    most = float(np.abs(change).max()) or 1.0
    np.fill_diagonal(change, np.nan)
    axes.set_facecolor(PALE)
    axes.pcolormesh(change, cmap=DIVERGING, norm=TwoSlopeNorm(0, -most, most), clip_on=False)
    for lines in (axes.hlines, axes.vlines):  # edges of each cell would be most of the file
        lines(range(len(labels) + 1), 0, len(labels), colors="#ffffff", linewidth=0.4, clip_on=False)
    ticks = np.arange(len(labels)) + 0.5
    axes.set(aspect="equal", xticks=ticks, yticks=ticks, ylim=(len(labels), 0))
    axes.set_title(f"{title}\ndarkest colour: ±{most:.2g} points")
    axes.set_xticklabels(labels, rotation=90 if max(map(len, labels)) > 3 else 0, fontsize=7)
    axes.set_yticklabels(labels, fontsize=7)
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def reliability(rows: Mapping[str, Row]) -> Figure | None:
    """Accuracy against confidence in bins, over all seeds; grey bars: share of the images."""
    found = [name for name in rows if rows[name].analyses][:MAX_PANELS]
    if not found:
        return None
    figure, axes_of = panels(len(found), 4, 2.4, 2.2, column_gap=0.3)
    for axes, name in zip(axes_of, found, strict=True):
        row = rows[name]
        count, confidence, right = (
            np.sum([getattr(analysis, key) for analysis in row.analyses.values()], axis=0)
            for key in ("count", "confidence", "right")
        )
        edges = np.linspace(0, 100, len(count) + 1)
        shares = 100 * count / count.sum()
        filled = count > 0
        x, y = 100 * confidence[filled] / count[filled], 100 * right[filled] / count[filled]
        axes.bar(
            edges[:-1][filled], shares[filled], np.diff(edges)[filled], align="edge", color=PALE, linewidth=0
        )
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        colour = GREY if name == TEACHER else COLOURS[0]
        sizes = np.where(
            count[filled] < 30, 8, 22
        )  # a small point: fewer than 30 images, so accuracy is rough
        axes.plot(x, y, color=colour, linewidth=1.2)
        axes.scatter(x, y, s=sizes, color=colour, linewidth=0, clip_on=False, zorder=3)
        axes.set(title=row.title, xlim=(0, 100), ylim=(0, 100), xticks=(0, 50, 100), yticks=(0, 50, 100))
        error = row.measures["calibration_error"].mean
        text = f"calibration error {error:.2f} %\n{count.sum():,.0f} predictions"
        behind = {"facecolor": "#ffffff", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        above: dict[str, Any] = {"xycoords": "axes fraction", "va": "top", "fontsize": 7.5}
        above |= {"bbox": behind, "zorder": 4}
        axes.annotate(text, (0.04, 0.96), **above)
    label_axes(figure, "confidence: largest probability (%)", "accuracy, and share of images (%)")
    return figure


def _change(row: Row, base: Row) -> np.ndarray | None:
    """Confusions in percent of the true class minus the baseline's, mean over common seeds; diagonal 0."""
    pairs = [
        (analysis.confusion, base.analyses[seed].confusion)
        for seed, analysis in row.analyses.items()
        if seed in base.analyses and analysis.confusion.shape == base.analyses[seed].confusion.shape
    ]
    if not pairs:
        return None

    def share(confusion: np.ndarray) -> np.ndarray:
        return np.asarray(100 * confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True)))

    change = np.mean([share(mine) - share(theirs) for mine, theirs in pairs], axis=0)
    np.fill_diagonal(change, 0.0)
    return np.asarray(change)
