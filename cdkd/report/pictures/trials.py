"""The trials of a study: their errors in order, against each parameter, and against the length of a trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cdkd.report.style import COLOURS, GREY, MARKERS
from cdkd.runs.study_record import Result, Trial

ERROR = "Top-1 error on validation (%)"
MAX_SLICES = 6  # parameters that have a panel each


def history(study: Result) -> Figure | None:
    """Every finished trial by its number, the best so far as steps, pruned trials as crosses."""
    finished = sorted(study.finished, key=lambda trial: trial.number)
    if not finished:
        return None
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [trial.number for trial in finished],
        _values(finished),
        "o",
        color=COLOURS[0],
        markersize=5,
        label="finished",
    )
    pruned = [trial for trial in study.trials if trial.state == "pruned" and trial.curve]
    if pruned:
        axes.plot(
            [trial.number for trial in pruned],
            [trial.curve[-1] for trial in pruned],
            "x",
            color=GREY,
            label="pruned, at its last error",
        )
    best = list(accumulate(_values(finished), min))
    axes.step([trial.number for trial in finished], best, where="post", color=COLOURS[1], label="best so far")
    if finished[0].number == 0:
        axes.axhline(
            _values(finished)[0],
            color=GREY,
            linewidth=1,
            linestyle=(0, (1, 2)),
            label=f"{study.base} unchanged (trial 0)",
        )
    values = _values(finished)
    top = max(sorted(values)[int(0.9 * (len(values) - 1))], values[0])
    low = min(values)
    axes.set(
        xlabel="Trial", ylabel=ERROR, ylim=(low - 0.08 * (top - low) - 0.1, top + 0.25 * (top - low) + 0.1)
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=4, fontsize=8)
    beyond = sum(value > axes.get_ylim()[1] for value in [*values, *(trial.curve[-1] for trial in pruned)])
    if beyond:
        axes.annotate(
            f"{beyond} above the axis",
            (0.995, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=8,
            color=GREY,
        )
    return figure


def slices(study: Result) -> Figure | None:
    """Error against each parameter, in order of importance. Triangles: the worst tenth."""
    finished = sorted(study.finished, key=lambda trial: trial.number)
    if len(finished) < 2:
        return None
    names = sorted(finished[0].setting, key=lambda name: -study.importance.get(name, 0.0))[:MAX_SLICES]
    columns = 2 if len(names) in (2, 4) else min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(8.5, 2.5 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    low, high = min(_values(finished)), sorted(_values(finished))[int(0.9 * (len(finished) - 1))]
    edge = high + 0.1 * (high - low) + 0.1
    for place, name in enumerate(names):
        axes = grid[place // columns][place % columns]
        values = [trial.setting[name] for trial in finished]
        if any(isinstance(value, str) for value in values):
            labels = sorted({str(value) for value in values})
            across = [float(labels.index(str(value))) for value in values]
            axes.set_xticks(range(len(labels)), labels)
            axes.set_xlim(-0.5, len(labels) - 0.5)
        else:
            across = [float(value) for value in values]
            if all(isinstance(value, int) for value in values):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if study.config["space"][name]["log"]:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the style draws no formulas
                axes.xaxis.set_minor_formatter(NullFormatter())
        dots: dict[str, Any] = {
            "cmap": "Blues",
            "vmin": -len(finished),
            "vmax": finished[-1].number,
            "s": 22,
            "clip_on": False,
        }
        for marker, beyond in (("o", False), ("^", True)):
            shown = [
                (x, min(y, edge), trial.number)
                for x, y, trial in zip(across, _values(finished), finished, strict=True)
                if (y > edge) == beyond
            ]
            if shown:
                x, y, number = zip(*shown, strict=True)
                axes.scatter(x, y, c=number, marker=marker, **dots)
        share = f"\nimportance {100 * study.importance[name]:.0f} %" if name in study.importance else ""
        axes.set(title=f"{name}{share}", ylim=(low - 0.08 * (high - low) - 0.1, edge))
        if place % columns == 0:
            axes.set_ylabel(ERROR)
    for place in range(len(names), lines * columns):
        grid[place // columns][place % columns].set_axis_off()
    return figure


def pareto(studies: Mapping[str, Result]) -> Figure | None:
    """Error against the epochs of a trial, over several studies. Steps: the lowest error so far."""
    points = {
        name: [(len(trial.curve), trial.value or 0.0) for trial in study.finished]
        for name, study in studies.items()
    }
    if len({cost for those in points.values() for cost, _ in those}) < 2:
        return None
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, those) in enumerate(points.items()):
        axes.plot(
            *zip(*those, strict=True),
            MARKERS[place % len(MARKERS)],
            color=COLOURS[place % len(COLOURS)],
            markersize=5,
            alpha=0.7,
            label=name,
        )
    front = frontier([point for those in points.values() for point in those])
    axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1.2, label="lowest so far")
    axes.set(xlabel="epochs of a trial", ylabel=ERROR, xlim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=4, fontsize=8)
    return figure


def frontier(points: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """Of (cost, error) those that no other of at most the same cost improves on, cheapest first."""
    found: list[tuple[int, float]] = []
    for cost, error in sorted(set(points)):
        if not found or error < found[-1][1]:
            found.append((cost, error))
    return found


def _values(trials: list[Trial]) -> list[float]:
    return [trial.value or 0.0 for trial in trials]
