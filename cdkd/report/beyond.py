"""Beyond top-1: calibration, what the student does where its teacher is right or wrong, and the classes that pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdkd.report.collect import TEACHER
from cdkd.report.document import NONE, Cell, Column, Grid
from cdkd.report.phrases import fixed, interval, probability, shown, verdict
from cdkd.report.statistics import Paired, compare
from cdkd.report.summary import Row

BASE = "student"  # whose classes distillation is compared to
MOST_CLASSES = 24  # of the table of all classes; beyond, only the file has them
NOT_RECORDED = "not recorded"
MEASURES = (
    ("calibration_error", "Calibration error (%)"),
    ("agreement", "Agreement with the teacher (%)"),
    ("kl", "KL to the teacher (nats)"),
    ("teacher_right_error", "Error where the teacher is right (%)"),
    ("teacher_wrong_error", "Error where the teacher is wrong (%)"),
    ("same_mistake", "The teacher's own mistake (%)"),
)
CAPTION = (
    "At the last epoch on the test split, mean ± sample standard deviation over the seeds. Calibration error: expected, over 15 equal bins of the largest "
    "probability; 0 is best. Agreement: images whose top-1 answer is the teacher's. KL: mean of KL(teacher ‖ student) at temperature 1. "
    "Error where the teacher is right or wrong: the student's top-1 error on those test images alone; GKD withholds the teacher's answer on training images "
    "where it is wrong. The teacher's own mistake: of the test images that the teacher gets wrong, those where the student gives the same wrong answer."
)
Classes = Mapping[str, Mapping[int, Paired]]  # method -> class -> difference in its error to the student's


def beyond_table(rows: Sequence[Row]) -> Grid | None:
    """None where no record has such measurements."""
    if not any(row.examined for row in rows):
        return None
    columns = [Column("Method", words=True), *(Column(title) for _, title in MEASURES)]
    cells = []
    for row in rows:
        missing = NOT_RECORDED if not row.examined and row.top1.n else NONE
        values = [row.beyond[key] for key, _ in MEASURES]
        cells.append([row.title, *(shown(value, row.top1.n, digits=3 if key == "kl" else 2) if value.n else missing if key == "calibration_error" else NONE
                                   for (key, _), value in zip(MEASURES, values, strict=True))])  # fmt: skip
    return Grid.of("beyond", "Calibration and the teacher's influence", CAPTION, columns, cells)


def class_differences(rows: Sequence[Row]) -> Classes:
    """Every method's error in every class minus the student's, seed by seed; the classes of a method are one family."""
    base = next((row for row in rows if row.name == BASE), None)
    if base is None:
        return {}
    found: dict[str, Mapping[int, Paired]] = {}
    for row in rows:
        seeds = [
            seed
            for seed in row.examined
            if seed in base.examined
            and row.examined[seed].confusion.shape == base.examined[seed].confusion.shape
        ]
        if seeds and row.name not in (BASE, TEACHER):
            minus = np.array(
                [row.examined[seed].class_errors - base.examined[seed].class_errors for seed in seeds]
            )
            found[row.name] = compare(
                {index: column.tolist() for index, column in enumerate(minus.T) if np.isfinite(column).all()}
            )
    return found


def hurt_table(
    rows: Sequence[Row], classes: Classes, names: Sequence[str] = (), most: int = 1
) -> Grid | None:
    """The classes that each method harms most, against the student alone: so many of each."""
    if not classes:
        return None
    means = mean_errors(rows)
    columns = [
        Column("Method", words=True),
        *map(
            Column,
            (
                "Better / equal / worse",
                "Class",
                "student (%)",
                "Method (%)",
                "Δ (points)",
                "95 % interval",
                "p, Holm",
            ),
        ),
    ]
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
            numbers = [
                fixed(means[BASE][index]),
                fixed(means[row.name][index]),
                fixed(paired.mean, sign=True),
                interval(paired, sign=True),
            ]
            cells.append(
                [
                    row.title,
                    counts if not place else "",
                    class_name(index, names),
                    *numbers,
                    probability(paired.holm),
                ]
            )
        if not worst:
            cells.append([row.title, counts, "none worse", *[NONE] * 5])
    caption = (
        f"Classes whose error rises against the student's, at most {most} of each method; means over the seeds. Better / equal / worse: number of classes. "
        "Holm: corrected for the classes of the method. Picked as the worst of many, these differences look larger than they are; trust those with a small p."
    )
    return Grid.of(
        f"hurt-{most}", "Where distillation hurts" + " most" * (most == 1), caption, columns, cells
    )


def class_table(rows: Sequence[Row], names: Sequence[str] = ()) -> Grid | None:
    """The error in every class; None where they are too many to be read."""
    means = mean_errors(rows)
    count = max((len(errors) for errors in means.values()), default=0)
    if not 0 < count <= MOST_CLASSES:
        return None
    shown_rows = [row for row in rows if row.name in means]
    columns = [Column("Class", words=True), *(Column(row.title) for row in shown_rows)]
    cells = [
        [class_name(index, names), *(fixed(_at(means[row.name], index)) for row in shown_rows)]
        for index in range(count)
    ]
    return Grid.of(
        "classes",
        "Error by class",
        "Top-1 error in percent of the class's test images at the last epoch, mean over the seeds.",
        columns,
        cells,
    )


def class_quantities(
    rows: Sequence[Row], classes: Classes, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """For the file: every class of every method."""
    lines = []
    for name, errors in mean_errors(rows).items():
        for index in range(len(errors)):
            paired = classes.get(name, {}).get(index)
            line: dict[str, Any] = {
                "method": name,
                "class": index,
                "name": class_name(index, names),
                "error": _at(errors, index),
            }
            line |= {
                "minus_student": paired.mean if paired else None,
                "low": paired.low if paired else None,
                "high": paired.high if paired else None,
            }
            lines.append(
                line
                | {
                    "n": paired.n if paired else None,
                    "p_holm": paired.holm if paired else None,
                    "verdict": verdict(paired, BASE) if paired else None,
                }
            )
    return lines


def mean_errors(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Method -> error of each class, mean over the seeds."""
    found = {}
    for row in rows:
        errors = [more.class_errors for more in row.examined.values()]
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
