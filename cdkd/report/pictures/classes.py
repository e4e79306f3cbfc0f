"""Confusions that distillation makes and mends, and how far a network's confidence can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from cdkd.report.collect import TEACHER
from cdkd.report.pictures.parts import MOST, name_axes, panels, students
from cdkd.report.style import DIVERGING, GREY, PALE, look
from cdkd.report.summary import Row

BASE = "student"
MOST_CLASSES = 12  # of a confusion map; of more, those that change most


def confusion(rows: Mapping[str, Row], class_names: Sequence[str] = ()) -> Figure | None:
    """Share of a class's images that are taken for another, minus the student's; the diagonal is left out."""
    found = {
        name: change
        for name in students(rows)
        if BASE in rows and name != BASE and (change := _change(rows[name], rows[BASE])) is not None
    }
    found = dict(list(found.items())[:MOST])
    if not found or len({change.shape for change in found.values()}) > 1:
        return None
    moved = np.sum([np.abs(change) for change in found.values()], axis=0)
    classes = np.sort(np.argsort(-(moved.sum(axis=0) + moved.sum(axis=1)), kind="stable")[:MOST_CLASSES])
    parts = {name: change[np.ix_(classes, classes)] for name, change in found.items()}
    most = max(float(np.abs(part).max()) for part in parts.values()) or 1.0
    labels = [class_names[index] if index < len(class_names) else str(index) for index in classes]
    long = max(map(len, labels)) > 3
    figure, axes_of = panels(len(parts), 4, 2.4, 2.4)
    for axes, (name, part) in zip(axes_of, parts.items(), strict=True):
        np.fill_diagonal(part, np.nan)
        axes.set_facecolor(PALE)
        mesh = axes.pcolormesh(part, cmap=DIVERGING, norm=TwoSlopeNorm(0, -most, most), clip_on=False)
        for lines in (axes.hlines, axes.vlines):  # not edges of each cell: those are most of a file
            lines(range(len(labels) + 1), 0, len(labels), colors="#ffffff", linewidth=0.4, clip_on=False)
        ticks = np.arange(len(labels)) + 0.5
        axes.set(title=name, aspect="equal", xticks=ticks, yticks=ticks, ylim=(len(labels), 0))
        axes.set_xticklabels(labels, rotation=90 if long else 0, fontsize=7)
        axes.set_yticklabels(labels, fontsize=7)
        axes.tick_params(length=0)
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    longest = 0.065 * max(map(len, labels))  # inches, about
    name_axes(figure, "\n" * round(3 * longest * long) + "predicted class", "true class", gap=0.12 + longest)
    width, height = figure.get_size_inches()
    bar = figure.colorbar(
        mesh, cax=figure.add_axes((1 + 0.2 / width, 0.5 - 1.2 / height, 0.12 / width, 2.4 / height))
    )
    bar.set_label("minus the student's (points of the class's images)", fontsize=8)
    bar.outline.set_visible(False)
    return figure


def reliability(rows: Mapping[str, Row]) -> Figure | None:
    """Accuracy against confidence in 15 bins, over all seeds; the larger a point, the more images."""
    looks = {name: look(place) for place, name in enumerate(students(rows))}
    found = [name for name in rows if rows[name].examined][:MOST]
    if not found:
        return None
    figure, axes_of = panels(len(found), 4, 2.4, 2.2, apart=0.3)
    for axes, name in zip(axes_of, found, strict=True):
        row, colour = rows[name], GREY if name == TEACHER else looks[name].colour
        count, confidence, right = (
            np.sum([getattr(more, key) for more in row.examined.values()], axis=0)
            for key in ("count", "confidence", "right")
        )
        held = count > 0
        x, y = 100 * confidence[held] / count[held], 100 * right[held] / count[held]
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.plot(x, y, color=colour, linewidth=1.2)
        axes.scatter(
            x,
            y,
            s=5 + 90 * count[held] / count.sum(),
            color=colour,
            linewidth=0,
            alpha=0.85,
            clip_on=False,
            zorder=3,
        )
        axes.set(title=name, xlim=(0, 100), ylim=(0, 100), xticks=(0, 50, 100), yticks=(0, 50, 100))
        error = row.beyond["calibration_error"].mean
        axes.annotate(
            f"calibration error {error:.2f} %", (0.04, 0.95), xycoords="axes fraction", va="top", fontsize=7.5
        )
    name_axes(figure, "confidence: largest probability (%)", "accuracy (%)")
    return figure


def _change(row: Row, base: Row) -> np.ndarray | None:
    """Confusions in percent of the true class's images minus the baseline's, mean over the seeds that both have; diagonal 0."""
    seeds = [
        seed
        for seed in row.examined
        if seed in base.examined and row.examined[seed].confusion.shape == base.examined[seed].confusion.shape
    ]
    if not seeds:
        return None

    def share(confusion: np.ndarray) -> np.ndarray:
        return np.asarray(100 * confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True)))

    change = np.mean(
        [share(row.examined[seed].confusion) - share(base.examined[seed].confusion) for seed in seeds], axis=0
    )
    np.fill_diagonal(change, 0.0)
    return np.asarray(change)
