"""Over the epochs: errors, weights, shares of the terms, and similarity of student and teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cdkd.config.params import Params
from cdkd.core.schedule import Term
from cdkd.report.collect import TEACHER
from cdkd.report.history import History
from cdkd.report.pictures.common import (
    MAX_PANELS,
    PERCENT,
    Band,
    draw_bands,
    epoch_axis,
    highlighted,
    label_axes,
    line_legend,
    over_seeds,
    panels,
    students,
)
from cdkd.report.style import COLOURS, FILLS, GREY
from cdkd.report.summary import Row

RATE = "learning rate"


def curves(rows: Mapping[str, Row]) -> Figure | None:
    """Mean test error over the epochs, with the range over seeds; the last quarter also on its own scale."""
    bands = {
        name: over_seeds(rows[name], lambda run: run.column("test_top1_error")) for name in students(rows)
    }
    epochs = max((len(band[1]) for band in bands.values() if band is not None), default=0)
    if epochs < 2:
        return None
    last = [] if epochs < 8 else [epochs - max(4, epochs // 4)]
    figure = Figure(figsize=(8.6 if last else 5.5, 4.0))
    axes_of = figure.subplots(
        1,
        1 + len(last),
        squeeze=False,
        gridspec_kw={"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0.1},
    )[0]
    teacher = rows[TEACHER].top1.mean
    for axes, first in zip(axes_of, [0, *last], strict=True):
        draw_bands(axes, bands, rows, first)
        if first:
            axes.set_ylim(*_close_up(bands, rows, first, axes.get_ylim()))
        low_end, high_end = axes.get_ylim()
        if teacher is not None and (not first or low_end <= teacher <= high_end):
            axes.axhline(teacher, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="teacher, last epoch")
        epoch_axis(axes, epochs, first)
        axes.set(
            title=f"epochs {first} to {epochs - 1}" if first else "all epochs",
            ylabel=PERCENT if not first else "",
        )
    line_legend(figure, axes_of[0])
    return figure


def _close_up(
    bands: Mapping[str, Band | None], rows: Mapping[str, Row], first: int, whole: tuple[float, float]
) -> tuple[float, float]:
    """The range of the highlighted methods: one bad method must not flatten the others."""
    parts = [
        band[index][first:] for name in highlighted(rows) if (band := bands.get(name)) for index in (0, 2)
    ]
    values = np.concatenate(parts) if parts else np.array([])
    values = values[np.isfinite(values)]
    if not len(values):
        return whole
    margin = 0.06 * max(float(np.ptp(values)), 0.1)
    return float(values.min()) - margin, float(values.max()) + margin


def schedules(params: Params, rows: Mapping[str, Row]) -> Figure | None:
    """A strip for every method whose weights change, with the weights as used; below, the learning rate."""
    weights = {name: _weights(params, rows[name]) for name in students(rows)}
    changing = [
        name for name, those in weights.items() if any(len(set(values)) > 1 for values in those.values())
    ]
    strips = [
        (name, loss, values) for name in changing[:MAX_PANELS] for loss, values in weights[name].items()
    ]
    if not strips or params.training.epochs < 2:
        return None
    strips += [(names, RATE, rates) for names, rates in _rates(params, rows)]
    starts = [index == 0 or strips[index - 1][0] != strip[0] for index, strip in enumerate(strips)]
    ratios = [ratio for start in starts for ratio in ((0.55, 1.0) if start else (1.0,))]
    height = 0.46 * sum(ratios) + 0.6
    figure = Figure(figsize=(9, height))
    grid = figure.add_gridspec(
        len(ratios),
        1,
        height_ratios=ratios,
        hspace=0.12,
        left=0.16,
        right=0.98,
        top=1 - 0.06 / height,
        bottom=0.5 / height,
    )
    place = -1
    for (name, loss, values), start in zip(strips, starts, strict=True):
        place += 2 if start else 1
        axes = figure.add_subplot(grid[place])
        _strip(axes, loss, values, COLOURS[6] if loss == RATE else COLOURS[0])
        if start:
            title = rows[name].title if name in rows else name
            axes.annotate(title, (0, 1.04), xycoords="axes fraction", fontweight="bold", va="bottom")
        if place < len(ratios) - 1:
            axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.set_xlabel("epoch")
    return figure


def shares(params: Params, rows: Mapping[str, Row]) -> Figure | None:
    """Share of each weighted term in the sum, mean over seeds; a panel for each method of several terms."""
    several = (
        (name, parts)
        for name in students(rows)
        if len(parts := _shares(rows[name], params.methods.get(name))) > 1
        and len(next(iter(parts.values()))) > 1
    )
    found = dict(islice(several, MAX_PANELS))
    if not found:
        return None
    losses = sorted({loss for parts in found.values() for loss in parts})
    colours = {loss: FILLS[index % len(FILLS)] for index, loss in enumerate(losses)}
    figure, axes_of = panels(len(found), 4, 2.5, 1.6)
    for axes, (name, parts) in zip(axes_of, found.items(), strict=True):
        epochs = len(next(iter(parts.values())))
        steps = [
            [*values, values[-1]] for values in parts.values()
        ]  # the last epoch is as wide as the others
        axes.stackplot(
            range(epochs + 1),
            *steps,
            step="post",
            colors=[colours[loss] for loss in parts],
            edgecolor="#ffffff",
            linewidth=0.7,
        )
        axes.set(title=rows[name].title, ylim=(0, 100), xlim=(0, epochs))
        axes.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], prune="upper"))
    label_axes(figure, "epoch", "share of the weighted sum (%)")
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1 + 0.28 / figure.get_figheight())}
    figure.legend(
        [Patch(color=colours[loss]) for loss in losses],
        losses,
        ncols=8,
        handlelength=1,
        handleheight=1,
        borderaxespad=0,
        **above,
    )
    return figure


def alignment(rows: Mapping[str, Row]) -> Figure | None:
    """Similarity of the student's and the teacher's channel means; a panel a stage, shallow to deep."""
    methods = students(rows)
    histories = [history for name in methods for history in rows[name].histories]
    stages = max((len(history.names("alignment")) for history in histories), default=0)
    epochs = max(map(len, histories), default=0)
    if not stages or epochs < 2:
        return None
    figure, axes_of = panels(stages, 4, 2.7, 3.2)
    for stage, axes in enumerate(axes_of):

        def column(history: History, stage: int = stage) -> np.ndarray:
            return history.column("alignment", str(stage))

        draw_bands(axes, {name: over_seeds(rows[name], column) for name in methods}, rows)
        epoch_axis(axes, epochs)
        axes.set(
            title=f"stage {stage + 1} of {stages}",
            ylabel="" if stage else "linear CKA of channel means (0 to 1)",
        )
    line_legend(figure, axes_of[0])
    return figure


def _weights(params: Params, row: Row) -> dict[str, list[float]]:
    """term -> its weight in each epoch: as a finished run recorded it, else as params have it."""
    method = params.methods.get(row.name, {})
    epochs = params.training.epochs
    if row.histories and len(row.histories[0]) == epochs:
        history = row.histories[0]
        if method.keys() <= set(history.names("weights")):
            columns = {name: history.column("weights", name) for name in method}
            if all(np.isfinite(column).all() for column in columns.values()):
                return {name: [float(value) for value in column] for name, column in columns.items()}
    return {name: [term.weight.at(epoch) for epoch in range(epochs)] for name, term in method.items()}


def _rates(params: Params, rows: Mapping[str, Row]) -> list[tuple[str, list[float]]]:
    """Each learning rate over the epochs with its methods, the commonest last. A search may choose one."""
    methods_of: dict[tuple[float, ...], list[str]] = {}
    for name in students(rows):
        recipe = params.tuned.get(name, params.training).resolved
        methods_of.setdefault(
            tuple(recipe.learning_rate_at(epoch) for epoch in range(recipe.epochs)), []
        ).append(name)
    *others, (most, _) = sorted(methods_of.items(), key=lambda item: len(item[1]))
    return [
        *((", ".join(rows[name].title for name in names), list(rates)) for rates, names in others),
        ("all other methods" if others else "all methods", list(most)),
    ]


def _shares(row: Row, method: Mapping[str, Term] | None) -> dict[str, np.ndarray]:
    """term -> percent of the weighted sum in each epoch, mean over seeds; of all networks of a group."""
    losses = sorted({name for history in row.histories for name in history.names("losses")})
    names = list(dict.fromkeys(map(_term_of, losses)))
    epochs = min(map(len, row.histories), default=0)
    if not names or not epochs:
        return {}
    totals = np.zeros((len(names), epochs))
    for history in row.histories:
        parts = np.zeros((len(names), epochs))
        for loss in losses:
            name = _term_of(loss)
            weighted = history.column("losses", loss) * history.column("weights", name)
            parts[names.index(name)] += np.nan_to_num(
                weighted[:epochs] / _rise((method or {}).get(name), epochs)
            )
        total = parts.sum(axis=0)
        totals += np.where(total > 0, 100 * parts / np.where(total > 0, total, 1), 0)
    return dict(zip(names, totals / len(row.histories), strict=True))


def _term_of(loss: str) -> str:
    """The term of a loss in a history: in a group it has one for each network, such as ce:peer0."""
    return loss.partition(":")[0]


def _rise(term: Term | None, epochs: int) -> np.ndarray:
    """The factor of a term's rise, which both its weight and its loss in a history contain."""
    factors = [1.0 if term is None else term.weight.rise_at(epoch) for epoch in range(epochs)]
    return np.array([factor or 1.0 for factor in factors])


def _strip(axes: Axes, label: str, values: Sequence[float], colour: str) -> None:
    """A step function of the epoch, from 0 to its maximum; long levels are labelled with their value."""
    top = max(values) or 1.0  # a weight may be 0 throughout
    axes.stairs(values, range(len(values) + 1), baseline=0, fill=True, color=colour, alpha=0.18, linewidth=0)
    axes.stairs(values, range(len(values) + 1), baseline=None, color=colour, linewidth=1.4)
    starts = [epoch for epoch in range(len(values)) if epoch == 0 or values[epoch] != values[epoch - 1]]
    for start, stop in zip(starts, [*starts[1:], len(values)], strict=True):
        if stop - start >= 0.07 * len(values):
            axes.annotate(
                f"{values[start]:.4g}",
                (start, values[start]),
                (3, 2),
                textcoords="offset points",
                fontsize=7.5,
            )
    axes.set(ylim=(0, 1.5 * top), xlim=(0, len(values)), yticks=[])
    axes.grid(False)
    axes.set_ylabel(label, rotation=0, ha="right", va="center")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
