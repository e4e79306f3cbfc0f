"""The report's pictures as files, and one run's curves, drawn as it finishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from cdkd.config.params import Params
from cdkd.report.pictures import classes, epochs, errors
from cdkd.report.pictures.parts import column, epochs_below, or_gap
from cdkd.report.style import COLOURS, both, look, png, style
from cdkd.report.summary import Row
from cdkd.runs.record import Record

Pictures = dict[str, bytes]  # file name -> content
# name -> the caption below it, and what it says to who cannot see it
PICTURES = {
    "errors": (
        "Top-1 error at the last epoch: a point for each seed, a stroke at the mean.",
        "Top-1 error at the last epoch: a point for each seed, a stroke at the mean",
    ),
    "forest": (
        "Differences in top-1 error at the last epoch to the baseline: large point and line, mean and 95 % interval; small points, the seeds. "
        "An arrowhead: the interval goes on. An interval that holds 0 leaves it open which is better; what is said beside it is after Holm's correction.",
        "Forest plot of the differences to the baseline with 95 % intervals; the numbers are in the table of differences",
    ),
    "curves": (
        "Top-1 error on the test split over the epochs: mean, and range over seeds as a band. Of eight epochs and more the last ones again, closer.",
        "Learning curves of all methods; the values are in the records, the last epoch's in the tables",
    ),
    "schedules": (
        "The weights of the losses over the epochs where they change, as they acted, and the learning rate. Epochs count from 0.",
        "Weights of the losses and learning rate over the epochs; the same is written out under Methods as run",
    ),
    "shares": (
        "The part of each weighted loss in the sum that is minimised, epoch by epoch, mean over seeds. A share of the value is not a share of the gradient.",
        "Stacked shares of the loss terms over the epochs, one panel for each method with several losses",
    ),
    "alignment": (
        "Similarity (linear CKA) of the student's and the teacher's channel means, CD's own quantity, on the test split: 1 is equal up to rotation and scale.",
        "Alignment of student and teacher over the epochs, one panel for each stage from shallow to deep",
    ),
    "reliability": (
        "Accuracy against confidence on the test split, all seeds together; the larger a point, the more images. Below the diagonal: too sure of itself.",
        "Reliability diagrams; the calibration errors are in the table before",
    ),
    "confusion": (
        "Who is taken for whom more (red) or less (blue) often than by the student alone, mean over seeds; the diagonal is left out. "
        f"Of more than {classes.MOST_CLASSES} classes, those that change most.",
        "Maps of the change in confusions against the student; the errors by class are in the tables",
    ),
}


def draw(params: Params, rows: Mapping[str, Row], class_names: Sequence[str] = ()) -> Pictures:
    """Every picture that the records allow, as SVG and as PNG."""
    with style():
        figures: dict[str, Figure | None] = {
            "errors": errors.errors(rows),
            "forest": errors.forest(rows),
            "curves": epochs.curves(rows),
            "schedules": epochs.schedules(params, rows),
            "shares": epochs.shares(rows),
            "alignment": epochs.alignment(rows),
            "reliability": classes.reliability(rows),
            "confusion": classes.confusion(rows, class_names),
        }
        pictures: Pictures = {}
        for name, figure in figures.items():
            if figure is not None:
                pictures[f"{name}.svg"], pictures[f"{name}.png"] = both(figure)
        return pictures


def run_pictures(record: Record) -> dict[str, bytes]:
    """What MLflow's page of a run shows beside its numbers, by file name."""
    return {"curves.png": run_curves(record)} if record.history else {}


def run_curves(record: Record) -> bytes:
    """One run's errors and losses over its epochs, as PNG."""
    with style():
        figure = Figure(figsize=(9, 3.2))
        errors, losses = figure.subplots(
            1, 2, gridspec_kw={"left": 0.06, "right": 0.985, "top": 0.91, "bottom": 0.15, "wspace": 0.16}
        )
        epochs = [row["epoch"] for row in record.history]
        for key, label, at in (
            ("train_top1_error", "top-1, training", 0),
            ("test_top1_error", "top-1, test", 1),
            ("test_top5_error", "top-5, test", 2),
        ):
            errors.plot(epochs, column(record.history, key), color=COLOURS[at], label=label)
        names = sorted({name for row in record.history for name in row["losses"]})
        for at, name in enumerate(names):
            values = [or_gap(row["losses"].get(name)) for row in record.history]
            losses.plot(
                epochs,
                values,
                color=look(at + 3).colour,
                linestyle=look(at + 3).dashes,
                label=f"{name}, training",
            )
        losses.plot(
            epochs, column(record.history, "test_loss"), color=COLOURS[1], label="cross-entropy, test"
        )
        epochs_below(errors, len(epochs))
        epochs_below(losses, len(epochs))
        errors.set(title=f"{record.experiment}: {record.method}, seed {record.seed}", ylabel="error (%)")
        losses.set(
            title="losses before their weights"
            + ("" if record.status == "finished" else f" ({record.status})"),
            ylabel="loss",
        )
        values = [value for line in losses.lines for value in line.get_ydata() if value > 0]
        if values and max(values) > 10 * min(values):
            losses.set_yscale("log")
            losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            losses.yaxis.set_major_formatter("{x:g}")
            losses.yaxis.set_minor_formatter(NullFormatter())
        for axes in (errors, losses):
            axes.legend(fontsize=8, loc="upper right")
        return png(figure, dpi=90)
