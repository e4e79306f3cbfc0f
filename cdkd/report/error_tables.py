"""Tables beyond top-1 error: calibration, agreement with the teacher, and errors by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdkd.report.collect import TEACHER
from cdkd.report.document import NONE, Cell, Column, Grid
from cdkd.report.statistics import Paired, compare
from cdkd.report.summary import Row
from cdkd.report.wording import decimals, interval_text, mean_std, p_value, verdict

BASE = "student"  # the method that errors by class are compared with
MAX_CLASSES = 24  # of the table of all classes; with more, only the CSV file has them
NOT_RECORDED = "not recorded"
COLUMNS = (
    ("calibration_error", "Calibration error (%)"),
    ("agreement", "Agreement with the teacher (%)"),
    ("kl", "KL to the teacher (nats)"),
    ("teacher_right_error", "Error where the teacher is right (%)"),
    ("teacher_wrong_error", "Error where the teacher is wrong (%)"),
    ("same_mistake", "Same wrong class as the teacher (%)"),
)
CAPTION = (
    "On the test split at the last epoch, mean ± sample standard deviation over the seeds. Calibration "
    "error: "
    "expected calibration error over 15 equal bins of the largest probability; 0 is best. Agreement: share "
    "of the "
    "images for which student and teacher predict the same class. KL: mean of KL(teacher ‖ student) at "
    "temperature 1. "
    "Error where the teacher is right or wrong: the student's top-1 error on those images alone; GKD leaves "
    "out the "
    "teacher's output on training images that the teacher gets wrong. Same wrong class: of the images that "
    "the teacher "
    "gets wrong, the share for which the student predicts the same wrong class."
)
Classes = Mapping[str, Mapping[int, Paired]]  # method -> class -> difference in its error to the student's


def measures_table(rows: Sequence[Row]) -> Grid | None:
    """None where no record has such measurements."""
    if not any(row.analyses for row in rows):
        return None

    def text(row: Row, key: str) -> str:
        value = row.measures[key]
        if value.n:
            return mean_std(value, row.top1.n, digits=3 if key == "kl" else 2)
        return NOT_RECORDED if key == COLUMNS[0][0] and not row.analyses and row.top1.n else NONE

    columns = [Column("Method", words=True), *(Column(title) for _, title in COLUMNS)]
    cells = [[row.title, *(text(row, key) for key, _ in COLUMNS)] for row in rows]
    return Grid.of("measures", "Calibration and agreement with the teacher", CAPTION, columns, cells)


def class_differences(rows: Sequence[Row]) -> Classes:
    """Errors in every class minus the student's, seed by seed; the family is a method's classes."""
    base = next((row for row in rows if row.name == BASE), None)
    if base is None:
        return {}
    found: dict[str, Mapping[int, Paired]] = {}
    for row in rows:
        pairs = [
            (analysis, base.analyses[seed])
            for seed, analysis in row.analyses.items()
            if seed in base.analyses and analysis.confusion.shape == base.analyses[seed].confusion.shape
        ]
        if pairs and row.name not in (BASE, TEACHER):
            minus = np.array([mine.class_errors - theirs.class_errors for mine, theirs in pairs])
            by_class = {index: column.tolist() for index, column in enumerate(minus.T)}
            found[row.name] = compare(
                {index: values for index, values in by_class.items() if np.isfinite(values).all()}
            )
    return found


def worst_classes_table(
    rows: Sequence[Row], classes: Classes, names: Sequence[str] = (), most: int = 1
) -> Grid | None:
    """The classes whose error rises most against the student alone: `most` of each method."""
    if not classes:
        return None
    means = mean_errors(rows)
    base = next(row.title for row in rows if row.name == BASE)
    titles = (
        "Better / equal / "
        "worse", "Class", f"{base} (%)", "Method (%)", "Δ (points)", "95 % interval", "p, Holm"
    )  # fmt: skip
    columns = [Column("Method", words=True), *map(Column, titles)]
    cells: list[list[str | Cell]] = []
    for row in rows:
        if row.name not in classes:
            continue
        mine = classes[row.name]
        signs = [_sign(paired) for paired in mine.values()]
        counts = " / ".join(str(signs.count(sign)) for sign in (-1, 0, 1))
        worst = sorted(
            (index for index in mine if _sign(mine[index]) > 0),
            key=lambda index: (-(mine[index].mean or 0.0), index),
        )[:most]
        for place, index in enumerate(worst):
            paired = mine[index]
            cells.append(
                [
                    row.title,
                    counts if not place else "",
                    class_name(index, names),
                    decimals(means[BASE][index]),
                    decimals(means[row.name][index]),
                    decimals(paired.mean, sign=True),
                    interval_text(paired, sign=True),
                    p_value(paired.holm),
                ]
            )
        if not worst:
            cells.append([row.title, counts, "none worse", *[NONE] * 5])
    caption = (
        f"Classes with a higher error than the student alone, at most {most} of each method; means over the "
        "seeds. "
        "Better / equal / worse: numbers of classes. Holm: corrected for all classes of the method. These "
        "classes were "
        "selected because they are the worst, so their differences look larger than they are; rely on a "
        "small p only."
    )
    return Grid.of(
        f"worst-{most}", "Classes with more errors than the student alone", caption, columns, cells
    )


def class_table(rows: Sequence[Row], names: Sequence[str] = ()) -> Grid | None:
    """The error in every class; None where they are too many to be read."""
    means = mean_errors(rows)
    count = max((len(errors) for errors in means.values()), default=0)
    if not 0 < count <= MAX_CLASSES:
        return None
    measured = [row for row in rows if row.name in means]
    columns = [Column("Class", words=True), *(Column(row.title) for row in measured)]
    cells = [
        [class_name(index, names), *(decimals(_at(means[row.name], index)) for row in measured)]
        for index in range(count)
    ]
    caption = "Top-1 error in percent of the class's test images at the last epoch, mean over the seeds."
    return Grid.of("classes", "Error by class", caption, columns, cells)


def class_quantities(
    rows: Sequence[Row], classes: Classes, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """For the CSV file: every class of every method."""
    lines = []
    for name, errors in mean_errors(rows).items():
        for index in range(len(errors)):
            paired = classes.get(name, {}).get(index)
            line: dict[str, Any] = {"method": name, "class": index, "name": class_name(index, names)}
            line |= {
                "error": _at(errors, index),
                "minus_student": paired.mean if paired else None,
                "low": paired.low if paired else None,
                "high": paired.high if paired else None,
                "n": paired.n if paired else None,
                "p_holm": paired.holm if paired else None,
                "verdict": verdict(paired, BASE) if paired else None,
            }
            lines.append(line)
    return lines


def mean_errors(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Method -> error of each class, mean over the seeds."""
    found = {}
    for row in rows:
        errors = [analysis.class_errors for analysis in row.analyses.values()]
        if errors and len({len(values) for values in errors}) == 1:
            found[row.name] = np.mean(errors, axis=0)
    return found


def class_name(index: int, names: Sequence[str]) -> str:
    return names[index] if index < len(names) else f"class {index}"


def _at(errors: np.ndarray, index: int) -> float | None:
    return float(errors[index]) if index < len(errors) and np.isfinite(errors[index]) else None


def _sign(paired: Paired) -> int:
    mean = paired.mean or 0.0
    return 0 if abs(mean) < 1e-9 else 1 if mean > 0 else -1
