"""The report's pictures: learning curves, last-epoch errors, schedules; and one run's curves, drawn as it finishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cdkd.params import Params
from cdkd.record import Record
from cdkd.report.collect import TEACHER, finite, number
from cdkd.report.notes import faults
from cdkd.report.style import COLOURS, GREY, look, png, style, svg
from cdkd.report.summary import Row
from cdkd.report.tables import shown
from cdkd.schedule import Method

Pictures = dict[str, bytes]  # file name -> content
PERCENT = "top-1 error on the test split (%)"


def draw(params: Params, rows: Mapping[str, Row]) -> Pictures:
    """Every picture that the records allow, as SVG and as PNG."""
    with style():
        figures = {"curves": _curves(rows), "errors": _errors(rows), "schedules": _schedules(params)}
        pictures: Pictures = {}
        for name, figure in figures.items():
            if figure is not None:
                pictures |= {f"{name}.svg": svg(figure, bbox_inches="tight"), f"{name}.png": png(figure, bbox_inches="tight")}
        return pictures


def run_pictures(record: Record) -> dict[str, bytes]:
    """What MLflow's page of a run shows beside its numbers, by file name."""
    return {"curves.png": run_curves(record)} if record.history else {}


def run_curves(record: Record) -> bytes:
    """One run's errors and losses over its epochs, as PNG."""
    with style():
        figure = Figure(figsize=(9, 3.2))
        errors, losses = figure.subplots(1, 2, gridspec_kw={"left": 0.06, "right": 0.985, "top": 0.91, "bottom": 0.15, "wspace": 0.16})
        epochs = [row["epoch"] for row in record.history]
        for key, label, at in (
            ("train_top1_error", "top-1, training", 0),
            ("test_top1_error", "top-1, test", 1),
            ("test_top5_error", "top-5, test", 2),
        ):
            errors.plot(epochs, _column(record.history, key), color=COLOURS[at], label=label)
        names = sorted({name for row in record.history for name in row["losses"]})
        for at, name in enumerate(names):
            values = [_or_gap(row["losses"].get(name)) for row in record.history]
            losses.plot(epochs, values, color=look(at + 3).colour, linestyle=look(at + 3).dashes, label=f"{name}, training")
        losses.plot(epochs, _column(record.history, "test_loss"), color=COLOURS[1], label="cross-entropy, test")
        _epochs(errors, len(epochs))
        _epochs(losses, len(epochs))
        errors.set(title=f"{record.experiment}: {record.method}, seed {record.seed}", ylabel="error (%)")
        losses.set(title="losses before their weights" + ("" if record.status == "finished" else f" ({record.status})"), ylabel="loss")
        values = [value for line in losses.lines for value in line.get_ydata() if value > 0]
        if values and max(values) > 10 * min(values):
            losses.set_yscale("log")
            losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            losses.yaxis.set_major_formatter("{x:g}")
            losses.yaxis.set_minor_formatter(NullFormatter())
        for axes in (errors, losses):
            axes.legend(fontsize=8, loc="upper right")
        return png(figure, dpi=90)


def _curves(rows: Mapping[str, Row]) -> Figure | None:
    """Mean test error over the epochs, with the range over seeds; the last quarter (at least four) again, on its own scale."""
    methods = [name for name in rows if name != TEACHER]
    lines = {name: _over_seeds(rows[name]) for name in methods}
    epochs = max((len(points) for points in lines.values()), default=0)
    if epochs < 2:
        return None
    last = [] if epochs < 8 else [epochs - max(4, epochs // 4)]
    figure = Figure(figsize=(11 if last else 7.5, 4.3), layout="constrained")
    panels = figure.subplots(1, 1 + len(last), squeeze=False)[0]
    teacher = rows[TEACHER].top1.mean
    for axes, first in zip(panels, [0, *last], strict=True):
        for position, name in enumerate(methods):
            points = lines[name][first:]
            x, (low, mean, high) = range(first, first + len(points)), zip(*points, strict=True) if points else ((), (), ())
            axes.fill_between(x, low, high, color=look(position).colour, alpha=0.13, linewidth=0)
            label = f"{name}{'' if rows[name].top1.n == len(rows[name].runs) else f' (n = {rows[name].top1.n})'}"
            axes.plot(x, mean, color=look(position).colour, linestyle=look(position).dashes, label=label)
        low_end, high_end = axes.get_ylim()
        if teacher is not None and (not first or low_end <= teacher <= high_end):  # it must not flatten the closer look
            axes.axhline(teacher, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="teacher, last epoch")
        _epochs(axes, epochs, first)
        axes.set(title=f"epochs {first} to {epochs - 1}" if first else "all epochs", ylabel=PERCENT if not first else "")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title="mean, and range over seeds", alignment="left", handlelength=3)
    return figure


def _errors(rows: Mapping[str, Row]) -> Figure | None:
    """A point for each seed's last-epoch error, a stroke at the mean, the numbers beside."""
    methods = [name for name in rows if name != TEACHER]
    if not any(rows[name].top1.n for name in methods):
        return None
    figure = Figure(figsize=(7.5, 0.36 * len(methods) + 1), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(methods):
        row, mine = rows[name], look(place)
        for index, run in enumerate(row.runs):
            if run.ok and (error := number(run.ok, "last", "test_top1_error")) is not None:
                height = place + 0.3 * (index / max(1, len(row.runs) - 1) - 0.5)  # so that equal errors do not hide each other
                axes.plot(error, height, mine.marker, color=mine.colour, markersize=5, alpha=0.75, markeredgewidth=0)
        if row.top1.mean is not None:
            axes.plot([row.top1.mean] * 2, [place - 0.32, place + 0.32], color=mine.colour, linewidth=1.6, solid_capstyle="butt")
        text = "; ".join(filter(None, (f"{shown(row.top1)} (n = {row.top1.n})" if row.top1.n else "", faults(row.runs))))
        axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    teacher = rows[TEACHER].top1.mean
    if teacher is not None:
        axes.axvline(teacher, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(f"teacher {teacher:.2f}", (teacher, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8, color=GREY)
    axes.set(yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5), xlabel=f"{PERCENT} at the last epoch; stroke: mean")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.06)
    return figure


def _schedules(params: Params) -> Figure | None:
    """The weights over the epochs of every method whose weights change, and the learning rate below: a strip each."""
    epochs = range(params.training.epochs)
    strips: list[tuple[str, str, list[float]]] = []
    for name, method in params.methods.items():
        strips += [(name, loss, values) for loss, values in _weights(method, epochs).items()]
    if not strips or len(epochs) < 2:
        return None
    strips.append(("all methods", "learning rate", [params.training.resolved.learning_rate_at(epoch) for epoch in epochs]))
    starts = [index == 0 or strips[index - 1][0] != strip[0] for index, strip in enumerate(strips)]
    ratios = [ratio for start in starts for ratio in ((0.55, 1.0) if start else (1.0,))]
    figure = Figure(figsize=(7.5, 0.46 * sum(ratios) + 0.6))
    grid = figure.add_gridspec(len(ratios), 1, height_ratios=ratios, hspace=0.12, left=0.16, right=0.98, top=0.99, bottom=0.5 / (0.46 * sum(ratios) + 0.6))
    place = -1
    for (name, loss, values), start in zip(strips, starts, strict=True):
        place += 2 if start else 1
        axes = figure.add_subplot(grid[place])
        _strip(axes, loss, values, COLOURS[6] if loss == "learning rate" else COLOURS[0])
        if start:
            axes.annotate(name, (0, 1.04), xycoords="axes fraction", fontweight="bold", va="bottom")
        if name != "all methods":
            axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.set_xlabel("epoch")
    return figure


def _strip(axes: Axes, label: str, values: Sequence[float], colour: str) -> None:
    """A step function of the epoch from 0 to its maximum, each level that has room labelled with its value."""
    top = max(values) or 1.0  # a weight may be 0 throughout
    axes.stairs(values, range(len(values) + 1), baseline=0, fill=True, color=colour, alpha=0.18, linewidth=0)
    axes.stairs(values, range(len(values) + 1), baseline=None, color=colour, linewidth=1.4)
    starts = [epoch for epoch in range(len(values)) if epoch == 0 or values[epoch] != values[epoch - 1]]
    for start, stop in zip(starts, [*starts[1:], len(values)], strict=True):
        if stop - start >= 0.07 * len(values):
            axes.annotate(f"{values[start]:.4g}", (start, values[start]), (3, 2), textcoords="offset points", fontsize=7.5)
    axes.set(ylim=(0, 1.5 * top), xlim=(0, len(values)), yticks=[])
    axes.grid(False)
    axes.set_ylabel(label, rotation=0, ha="right", va="center")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))


def _weights(method: Method, epochs: range) -> dict[str, list[float]]:
    """loss -> its weight in each epoch; empty unless one of them changes."""
    weights = {loss: [term.weight.at(epoch) for epoch in epochs] for loss, term in method.items()}
    return weights if any(len(set(values)) > 1 for values in weights.values()) else {}


def _over_seeds(row: Row) -> list[tuple[float, float, float]]:
    """Lowest, mean and highest test error over the seeds, epoch by epoch."""
    columns = [_column(run.ok.history, "test_top1_error") for run in row.runs if run.ok]
    return [(min(values), sum(values) / len(values), max(values)) for values in zip(*columns, strict=False)]


def _column(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [_or_gap(row.get(key)) for row in history]


def _or_gap(value: Any) -> float:
    number = finite(value)
    return float("nan") if number is None else number


def _epochs(axes: Axes, count: int, first: int = 0) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(first - 0.02 * (count - first), max(count - 1, 1) + 0.02 * (count - first))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
