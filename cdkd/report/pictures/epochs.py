"""Over the epochs: errors, weights, the losses' shares, and how far the student's channels follow the teacher's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cdkd.config.params import Params
from cdkd.report.collect import TEACHER, finite
from cdkd.report.pictures.parts import (
    LEGEND,
    LINES,
    MOST,
    PERCENT,
    draw_band,
    epochs_below,
    explain_lines,
    name_axes,
    over_seeds,
    panels,
    students,
)
from cdkd.report.style import COLOURS, FILLS, GREY
from cdkd.report.summary import Row

RATE = "learning rate"


def curves(rows: Mapping[str, Row]) -> Figure | None:
    """Mean test error over the epochs, with the range over seeds; the last quarter (at least four) again, on its own scale."""
    methods = students(rows)[:LINES]
    lines = {name: over_seeds(rows[name], lambda line: line.get("test_top1_error")) for name in methods}
    epochs = max((len(points) for points in lines.values()), default=0)
    if epochs < 2:
        return None
    last = [] if epochs < 8 else [epochs - max(4, epochs // 4)]
    height = max(4.3, 0.2 * min(len(methods), LEGEND) + 0.8)
    figure = Figure(figsize=(8.6 if last else 5.5, height))
    axes_of = figure.subplots(
        1,
        1 + len(last),
        squeeze=False,
        gridspec_kw={"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0.1},
    )[0]
    teacher = rows[TEACHER].top1.mean
    for axes, first in zip(axes_of, [0, *last], strict=True):
        for place, name in enumerate(methods):
            label = (
                f"{name}{'' if rows[name].top1.n == len(rows[name].runs) else f' (n = {rows[name].top1.n})'}"
            )
            draw_band(axes, lines[name][first:], place, first, label)
        low_end, high_end = axes.get_ylim()
        if teacher is not None and (
            not first or low_end <= teacher <= high_end
        ):  # it must not flatten the closer look
            axes.axhline(teacher, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="teacher, last epoch")
        epochs_below(axes, epochs, first)
        axes.set(
            title=f"epochs {first} to {epochs - 1}" if first else "all epochs",
            ylabel=PERCENT if not first else "",
        )
    explain_lines(figure, axes_of[0], len(students(rows)) > LINES)
    return figure


def schedules(params: Params, rows: Mapping[str, Row]) -> Figure | None:
    """The weights over the epochs of every method whose weights change, as they acted, and the learning rate below: a strip each."""
    weights = {name: _weights(params, rows[name]) for name in students(rows)}
    changing = [
        name for name, those in weights.items() if any(len(set(values)) > 1 for values in those.values())
    ]
    strips = [(name, loss, values) for name in changing[:MOST] for loss, values in weights[name].items()]
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
            axes.annotate(name, (0, 1.04), xycoords="axes fraction", fontweight="bold", va="bottom")
        if place < len(ratios) - 1:
            axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.set_xlabel("epoch")
    return figure


def shares(rows: Mapping[str, Row]) -> Figure | None:
    """What part of the sum each weighted loss is, epoch by epoch: mean over seeds, a panel for every method with several losses."""
    several = (
        (name, parts)
        for name in students(rows)
        if len(parts := _shares(rows[name])) > 1 and len(next(iter(parts.values()))) > 1
    )
    found = dict(islice(several, MOST))
    if not found:
        return None
    losses = sorted({loss for parts in found.values() for loss in parts})
    colours = {loss: FILLS[index % len(FILLS)] for index, loss in enumerate(losses)}
    figure, axes_of = panels(len(found), 4, 2.5, 1.6)
    for axes, (name, parts) in zip(axes_of, found.items(), strict=True):
        epochs = len(next(iter(parts.values())))
        steps = [
            [*values, values[-1]] for values in parts.values()
        ]  # an epoch is as wide as the next, the last one too
        axes.stackplot(
            range(epochs + 1),
            *steps,
            step="post",
            colors=[colours[loss] for loss in parts],
            edgecolor="#ffffff",
            linewidth=0.7,
        )
        axes.set(title=name, ylim=(0, 100), xlim=(0, epochs))
        axes.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    name_axes(figure, "epoch", "share of the weighted sum (%)")
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
    """Similarity of the student's and the teacher's channel means, a panel for every stage, from shallow to deep."""
    methods = students(rows)[:LINES]
    stages = max(
        (
            len(line.get("alignment") or ())
            for name in methods
            for record in rows[name].records
            for line in record.history[:1]
        ),
        default=0,
    )
    epochs = max((len(record.history) for name in methods for record in rows[name].records), default=0)
    if not stages or epochs < 2:
        return None
    figure, axes_of = panels(stages, 4, 2.7, 3.2)
    for stage, axes in enumerate(axes_of):
        for place, name in enumerate(methods):
            draw_band(
                axes,
                over_seeds(rows[name], lambda line, stage=stage: _stage(line.get("alignment"), stage)),  # type: ignore[misc]
                place,
                label=name,
            )
        epochs_below(axes, epochs)
        axes.set(
            title=f"stage {stage + 1} of {stages}",
            ylabel="" if stage else "linear CKA of channel means (0 to 1)",
        )
    explain_lines(figure, axes_of[0], len(students(rows)) > LINES)
    return figure


def _stage(values: object, stage: int) -> float | None:
    return finite(values[stage]) if isinstance(values, list) and stage < len(values) else None


def _weights(params: Params, row: Row) -> dict[str, list[float]]:
    """loss -> its weight in each epoch: as a finished run recorded it, else as params have it."""
    method = params.methods.get(row.name, {})
    if row.records and all(
        isinstance(line.get("weights"), dict) and method.keys() <= line["weights"].keys()
        for line in row.records[0].history
    ):
        history = row.records[0].history
        if len(history) == params.training.epochs:
            return {loss: [finite(line["weights"][loss]) or 0.0 for line in history] for loss in method}
    return {
        loss: [term.weight.at(epoch) for epoch in range(params.training.epochs)]
        for loss, term in method.items()
    }


def _rates(params: Params, rows: Mapping[str, Row]) -> list[tuple[str, list[float]]]:
    """Each learning rate over the epochs, and whose it is: a search may give its method one of its own. The commonest comes last."""
    whose: dict[tuple[float, ...], list[str]] = {}
    for name in students(rows):
        recipe = params.tuned.get(name, params.training).resolved
        whose.setdefault(tuple(recipe.learning_rate_at(epoch) for epoch in range(recipe.epochs)), []).append(
            name
        )
    *others, (most, _) = sorted(whose.items(), key=lambda item: len(item[1]))
    return [
        *((", ".join(names), list(rates)) for rates, names in others),
        ("all other methods" if others else "all methods", list(most)),
    ]


def _shares(row: Row) -> dict[str, list[float]]:
    """loss -> percent of the weighted sum in each epoch, mean over seeds; a loss without weight has no part."""
    runs = [[_parts(line) for line in record.history] for record in row.records]
    names = sorted({loss for run in runs for parts in run for loss in parts})
    epochs = list(zip(*runs, strict=False))
    return (
        {
            loss: [sum(parts.get(loss, 0.0) for parts in epoch) / len(epoch) for epoch in epochs]
            for loss in names
        }
        if epochs
        else {}
    )


def _parts(line: Mapping[str, object]) -> dict[str, float]:
    losses, weights = line.get("losses"), line.get("weights")
    if not isinstance(losses, dict) or not isinstance(weights, dict):
        return {}
    terms = {
        loss: (finite(weights.get(loss)) or 0.0) * (finite(value) or 0.0) for loss, value in losses.items()
    }
    total = math.fsum(terms.values())
    return {loss: 100 * term / total for loss, term in terms.items()} if total > 0 else {}


def _strip(axes: Axes, label: str, values: Sequence[float], colour: str) -> None:
    """A step function of the epoch from 0 to its maximum, each level that has room labelled with its value."""
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
