"""The report's figures as files, and the curves of one run, drawn when it finishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from cdkd.config.params import Params
from cdkd.report.history import History
from cdkd.report.pictures import classes, epochs, errors, peers
from cdkd.report.pictures.common import epoch_axis
from cdkd.report.style import COLOURS, line_style, png, style, svg_and_png
from cdkd.report.summary import Row
from cdkd.runs.record import Record

Pictures = dict[str, bytes]  # file name -> content
# name -> the caption below it, and its text for screen readers
PICTURES = {
    "errors": (
        "Top-1 error at the last epoch: a point for each seed, a line at the mean; in orange: the lowest "
        "mean.",
        "Top-1 error of every seed at the last epoch; the numbers are in the tables",
    ),
    "forest": (
        "Differences in top-1 error at the last epoch to the baseline. Large point and line: mean and 95 % "
        "interval; "
        "small points: the seeds; arrowhead: the interval continues. In blue: significant after Holm's "
        "correction; the "
        "intervals are not corrected.",
        "Differences to the baseline with 95 % intervals; the numbers are in the table of differences",
    ),
    "curves": (
        "Top-1 error on the test split over the epochs: mean, and range over seeds as a band. Of many "
        "methods, the "
        "baselines and the best are coloured and all others grey; the right panel shows the range of the "
        "coloured ones.",
        "Training curves of all methods; the tables list the last epoch",
    ),
    "schedules": (
        "Weights of the terms over the epochs where they change, as they were used, and the learning rate. "
        "Epochs count from 0.",
        "Weights and learning rate over the epochs; Methods as run lists the same as text",
    ),
    "shares": (
        "Share of each weighted term in the sum that is minimised, mean over seeds. A share of the value is "
        "not a share "
        "of the gradient.",
        "Stacked shares of the terms over the epochs, one panel for each method with several terms",
    ),
    "alignment": (
        "Similarity (linear CKA) of the student's and the teacher's channel means, the quantity that CD "
        "trains, on the "
        "test split: 1 means equal up to rotation and scale.",
        "Similarity of student and teacher over the epochs, one panel for each stage from shallow to deep",
    ),
    "peers": (
        "Networks that were trained together. Left: mean distance of their probabilities on the test split, "
        "of branched networks (CSS) of the branches' joint answers: another scale. Right: points are "
        "the networks, crosses the ensembles, the ring is the deployed network, whose error the tables list.",
        "Diversity of the networks over the epochs, and the errors of each of them and of their ensembles",
    ),
    "reliability": (
        "Accuracy against confidence on the test split, all seeds together, in bins of confidence; small "
        "points: fewer "
        "than 30 images. Grey bars: share of the images in the bin. Below the diagonal the network is "
        "overconfident.",
        "Reliability diagrams; the calibration errors are in the table above",
    ),
    "confusion": (
        "Change of the confusion matrix against the student alone, mean over seeds, without the diagonal: "
        "red means that "
        "images of the true class are predicted as this class more often, blue less often. Each panel has "
        "its own colour "
        f"scale. Of more than {classes.MAX_CLASSES} classes, those that change most.",
        "Changes of the confusion matrices against the student; the errors by class are in the tables",
    ),
}


def draw(params: Params, rows: Mapping[str, Row], class_names: Sequence[str] = ()) -> Pictures:
    """Every figure for which there are records, as SVG and as PNG."""
    with style():
        figures: dict[str, Figure | None] = {
            "errors": errors.errors(rows),
            "forest": errors.forest(rows),
            "curves": epochs.curves(rows),
            "schedules": epochs.schedules(params, rows),
            "shares": epochs.shares(params, rows),
            "alignment": epochs.alignment(rows),
            "peers": peers.peers(rows),
            "reliability": classes.reliability(rows),
            "confusion": classes.confusion(rows, class_names),
        }
        pictures: Pictures = {}
        for name, figure in figures.items():
            if figure is not None:
                pictures[f"{name}.svg"], pictures[f"{name}.png"] = svg_and_png(figure)
        return pictures


def run_pictures(record: Record) -> dict[str, bytes]:
    """Figures of a run for MLflow, by file name."""
    return {"curves.png": run_curves(record)} if record.history else {}


def run_curves(record: Record) -> bytes:
    """One run's errors and losses over its epochs, as PNG."""
    with style():
        figure = Figure(figsize=(9, 3.2))
        errors, losses = figure.subplots(
            1, 2, gridspec_kw={"left": 0.06, "right": 0.985, "top": 0.91, "bottom": 0.15, "wspace": 0.16}
        )
        history = History(record.history)
        epochs = history.column("epoch")
        for key, label, at in (
            ("train_top1_error", "top-1, training", 0),
            ("test_top1_error", "top-1, test", 1),
            ("test_top5_error", "top-5, test", 2),
        ):
            errors.plot(epochs, history.column(key), color=COLOURS[at], label=label)
        for at, name in enumerate(sorted(history.names("losses"))):
            values = history.column("losses", name)
            losses.plot(
                epochs,
                values,
                color=line_style(at + 3).colour,
                linestyle=line_style(at + 3).dashes,
                label=f"{name}, training",
            )
        losses.plot(epochs, history.column("test_loss"), color=COLOURS[1], label="cross-entropy, test")
        epoch_axis(errors, len(epochs))
        epoch_axis(losses, len(epochs))
        errors.set(title=f"{record.experiment}: {record.method}, seed {record.seed}", ylabel="error (%)")
        losses.set(
            title="terms without their weights"
            + ("" if record.status == "finished" else f" ({record.status})"),
            ylabel="loss",
        )
        positive = [value for line in losses.lines for value in line.get_ydata() if value > 0]
        if positive and max(positive) > 10 * min(positive):
            losses.set_yscale("log")
            losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            losses.yaxis.set_major_formatter("{x:g}")
            losses.yaxis.set_minor_formatter(NullFormatter())
        for axes in (errors, losses):
            axes.legend(fontsize=8, loc="upper right")
        return png(figure, dpi=90)
