"""What a table costs against its number of rows: the reference trains each by itself, this project all of
them together.

    python -m benchmarks.picture benchmarks/results/default.csv

Draws cost.svg and cost.png next to the CSV that `benchmarks.run` wrote. Without an argument it takes the
newest there is.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from benchmarks.run import RATE, RESULTS
from cdkd.report.style import COLOURS, GREY, MARKERS, png, style, svg
from cdkd.storage.files import write_atomically

REFERENCES = {"reference": "the reference loop", "RepDistiller": "RepDistiller's loop"}
EPOCHS, IMAGES = 240, 50_000  # of one run, for the axis in hours: the usual recipe on CIFAR-100


class Series(NamedTuple):
    """Cost of a table of K rows, in runs of the reference loop."""

    label: str
    costs: dict[int, float]  # K -> cost


class Drawn(NamedTuple):
    """What of a CSV is drawn: one pair and batch.

    reference: images a second; name: of the reference; autocast: its ratio with bf16; None: not measured
    """

    title: str
    circumstances: str
    name: str
    reference: float
    autocast: float | None
    series: list[Series]


def read(path: Path) -> Drawn:
    """The first pair and batch of the CSV.

    Rows about other growth (images, seeds) and emulated ones are left out.
    """
    with path.open(encoding="utf-8", newline="") as file:
        measured = [row for row in csv.DictReader(file) if row[RATE]]
    reference = next((row for row in measured if row["variant"] in REFERENCES), None)
    if reference is None:
        raise SystemExit(f"{path}: no row of the reference; `python -m benchmarks.run` measures it")
    same = [
        row
        for row in measured
        if row is not reference and (row["pair"], row["batch"]) == (reference["pair"], reference["batch"])
    ]
    under_autocast = next((row for row in same if row["variant"].endswith(", autocast")), None)
    same = [
        row
        for row in same
        if row is not under_autocast
        and not row["note"]
        and row["seeds"] == "1"
        and " images" not in row["variant"]
    ]
    grouped: dict[str, dict[int, float]] = {}
    for row in same:
        label = ", ".join(
            [
                "cdkd",
                *(row[name] for name in ("precision", "engine") if row[name] not in ("float32", "eager")),
            ]
        )
        label += f", {row['cache']} cache" if row["cache"] != "off" else ""
        grouped.setdefault(label, {})[int(row["K"])] = int(row["K"]) / float(row["ratio"])
    series = sorted(
        (Series(label, dict(sorted(costs.items()))) for label, costs in grouped.items()),
        key=lambda one: -list(one.costs.values())[-1],
    )
    if not series:
        raise SystemExit(f"{path}: nothing but the reference was measured")
    title = (
        f"Cost of a table of distillation results: {reference['pair'].replace('->', ' → ')}, "
        f"batch {reference['batch']}"
    )
    return Drawn(
        title,
        f"{reference['machine']}; one thread, by processor time; {reference['date'][:10]}",
        REFERENCES[reference["variant"]],
        float(reference[RATE]),
        None if under_autocast is None else float(under_autocast["ratio"]),
        series,
    )


def draw(drawn: Drawn) -> Figure:
    most = max(count for one in drawn.series for count in one.costs)
    figure = Figure(figsize=(8.2, 4.4))
    axes = figure.subplots(
        gridspec_kw={"left": 0.07, "right": 0.62, "top": 0.91, "bottom": 0.21}
    )  # room for the names on the right
    axes.plot([0, most], [0, most], color="black", linestyle=(0, (4, 1.5)))
    labels = [(float(most), drawn.name, "black")]
    if drawn.autocast is not None:
        axes.plot([0, most], [0, most / drawn.autocast], color=GREY, linestyle=(0, (4, 1.5)))
        labels.append((most / drawn.autocast, f"{drawn.name}, autocast", GREY))
    for place, one in enumerate(drawn.series):
        counts, costs = list(one.costs), list(one.costs.values())
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(counts, costs, color=colour, marker=MARKERS[place % len(MARKERS)], markersize=5)
        ratio = counts[-1] / costs[-1]
        labels.append(
            (
                costs[-1],
                f"{one.label}: {f'{ratio:.1f} × cheaper' if ratio > 1 else f'{1 / ratio:.1f} × dearer'}",
                colour,
            )
        )
    _label_ends(axes, most, labels)
    axes.set(
        xlim=(0, most * 1.02),
        ylim=(0, None),
        xlabel="rows of the table (K methods, one seed)",
        ylabel=f"cost, in runs of {drawn.name}",
    )
    axes.xaxis.set_major_locator(MultipleLocator(max(1, most // 8)))
    hours = EPOCHS * IMAGES / drawn.reference / 3600
    figure.text(0.01, 0.96, drawn.title, fontsize=10, fontweight="bold")
    figure.text(
        0.01,
        0.02,
        f"One run of {drawn.name}, {EPOCHS} epochs of {IMAGES:,} images: "
        f"{hours:,.0f} hours.\n{drawn.circumstances}.",
        fontsize=8,
        color=GREY,
    )
    return figure


def _label_ends(axes: Axes, most: int, labels: Sequence[tuple[float, str, str]]) -> None:
    """A name at the end of each line instead of a legend, moved upwards where two would touch."""
    gap = 0.055 * max(height for height, _, _ in labels)
    last = -gap
    for height, text, colour in sorted(labels):
        last = max(height, last + gap)
        axes.annotate(
            text,
            (most, last),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8.5,
            annotation_clip=False,
        )


def main(words: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description="cost of a table against its number of rows")
    options.add_argument(
        "csv",
        type=Path,
        nargs="?",
        help="that benchmarks.run wrote; without it, the newest in benchmarks/results",
    )
    found = options.parse_args(words)
    path = found.csv or max(RESULTS.glob("*.csv"), key=lambda each: each.stat().st_mtime, default=None)
    if path is None:
        raise SystemExit(f"nothing in {RESULTS}; `python -m benchmarks.run` measures it")
    with style():
        figure = draw(read(path))
        for name, picture in (("cost.svg", svg(figure)), ("cost.png", png(figure))):
            write_atomically(path.parent / name, picture)
            print(path.parent / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
