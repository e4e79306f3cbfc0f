"""Methods compared over test images as well as seeds, from the runs' predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdkd.report.collect import TEACHER
from cdkd.report.crossed import Crossed, Interval, Over, mcnemar
from cdkd.report.document import NONE, Cell, Column, Grid
from cdkd.report.statistics import ALPHA, holm
from cdkd.report.summary import Row
from cdkd.report.tables import bases
from cdkd.report.wording import decimals, p_value

CAPTION = (
    "Every seed classifies the same test images, so a difference has two sources of chance. Three 95 % "
    "intervals of the mean difference in top-1 error, in points, and what each allows to vary. Other seeds: "
    "networks trained again, judged on these images. Other images: these trained networks, judged on other "
    "images of the same kind. Both: networks trained again, judged on other images; two-way random effects, "
    "Satterthwaite's degrees of freedom; p (Holm-corrected) and result are of this interval. "
    "McNemar: seeds in which the exact test of the images finds p < 0.05, uncorrected; it says nothing about "
    "other seeds. With one seed only the images can vary: the numbers are of these trained networks, and "
    "McNemar's column has its p."
)
OVERS: tuple[tuple[Over, str], ...] = (
    ("rows", "Other seeds"),
    ("columns", "Other images"),
    ("both", "Both"),
)


@dataclass(frozen=True)
class ImageTest:
    """One method minus a baseline, on the seeds of which both have predictions.

    mean: difference in top-1 error, in points; intervals: by `Over`, in points; None where nothing varies
    mcnemar: p of each seed; holm: of the interval over both
    """

    method: str
    base: str
    seeds: tuple[int, ...]
    images: int
    mean: float
    intervals: dict[Over, Interval | None]
    mcnemar: tuple[float, ...]
    holm: float | None = None

    @property
    def verdict(self) -> str:
        if len(self.seeds) == 1:
            return "one seed: of these networks only"
        if self.holm is None:
            return "no spread"
        if self.holm >= ALPHA:
            return "undecided"
        return "fewer errors" if self.mean < 0 else "more errors"


def image_tests(rows: Sequence[Row], base: str) -> tuple[ImageTest, ...]:
    """Every method that has predictions of the baseline's seeds; one family of Holm's correction."""
    against = next((row for row in rows if row.name == base), None)
    if against is None:
        return ()
    found = [
        test for row in rows if row.name not in (TEACHER, base) and (test := _test(row, against)) is not None
    ]
    both = [(test, interval) for test in found if (interval := test.intervals["both"]) is not None]
    corrected = dict(zip((test.method for test, _ in both), holm([one.p for _, one in both]), strict=True))
    return tuple(ImageTest(**{**test.__dict__, "holm": corrected.get(test.method)}) for test in found)


def _test(row: Row, base: Row) -> ImageTest | None:
    mine, theirs = row.wrong, base.wrong
    seeds = tuple(seed for seed in mine if seed in theirs and len(mine[seed]) == len(theirs[seed]))
    if len({len(mine[seed]) for seed in seeds}) != 1:
        return None
    table = Crossed(100.0 * np.array([mine[seed].astype(float) - theirs[seed] for seed in seeds]))
    return ImageTest(
        row.name,
        base.name,
        seeds,
        table.shape[1],
        table.mean,
        {over: table.interval(over) for over, _ in OVERS},
        tuple(mcnemar(mine[seed], theirs[seed]) for seed in seeds),
    )


def image_tables(rows: Sequence[Row]) -> tuple[Grid, ...]:
    """One for each baseline that has predictions."""
    titles = {row.name: row.title for row in rows}
    grids = []
    for base in bases(rows):
        if tests := image_tests(rows, base):
            grids.append(_table(base, titles, tests))
    return tuple(grids)


def _table(base: str, titles: dict[str, str], tests: Sequence[ImageTest]) -> Grid:
    columns = [Column("Method", words=True), Column("Δ (points)"), *(Column(name) for _, name in OVERS)]
    columns += [Column("McNemar"), Column("p, Holm"), Column("Result", words=True)]
    cells: list[list[str | Cell]] = []
    for test in tests:
        below = sum(p < ALPHA for p in test.mcnemar)
        hint = ", ".join(
            f"seed {seed}: p = {p_value(p)}" for seed, p in zip(test.seeds, test.mcnemar, strict=True)
        )
        shown = f"{below} of {len(test.seeds)}" if len(test.seeds) > 1 else p_value(test.mcnemar[0])
        cells.append(
            [
                titles[test.method],
                decimals(test.mean, sign=True),
                *(_interval(test.intervals[over]) for over, _ in OVERS),
                Cell(shown, hint=hint, order=below),
                p_value(test.holm),
                test.verdict,
            ]
        )
    title = f"Differences to {titles[base]}, over seeds and images"
    return Grid.of(f"images-{base}", title, CAPTION, columns, cells)


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return NONE
    return f"{decimals(interval.low, sign=True)} to {decimals(interval.high, sign=True)}"


def image_quantities(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For the CSV file: a line for each comparison."""
    lines = []
    for base in bases(rows):
        for test in image_tests(rows, base):
            line: dict[str, Any] = {"method": test.method, "minus": base, "mean": test.mean}
            for over, name in OVERS:
                interval, key = test.intervals[over], name.lower().replace(" ", "_")
                line |= {
                    f"{key}_low": interval and interval.low,
                    f"{key}_high": interval and interval.high,
                    f"{key}_p": interval and interval.p,
                }
            line |= {"p_holm": test.holm, "seeds": len(test.seeds), "images": test.images}
            lines.append(line | {"mcnemar_p": " ".join(f"{p:.4g}" for p in test.mcnemar)})
    return lines
