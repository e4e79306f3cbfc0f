"""Methods compared with each other, seed by seed: the tables of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from cdkd.report.collect import TEACHER
from cdkd.report.document import NONE, Cell, Column, Grid
from cdkd.report.over_teachers import compare_runs
from cdkd.report.statistics import ALPHA, Paired
from cdkd.report.summary import Row, differences
from cdkd.report.tables import bases
from cdkd.report.wording import decimals, interval_text, p_value, verdict

MAX_ROWS = 24  # of the table of all pairs; with more, only the CSV file has them
CAPTION = (
    "Both methods of a pair use the same seed, hence the same initial weights and batches. Differences are "
    "taken "
    "seed by seed, in points of top-1 error at the last epoch; negative means fewer errors. Interval and p: "
    "two-sided paired t test, which assumes that the differences are normally distributed. Effect size: "
    "Cohen's d_z "
    "(mean over standard deviation of the differences) with Hedges' correction, from three seeds on. "
    "p, Holm: corrected for all comparisons with this baseline; the result is called significant below 0.05. "
    "More seeds needed: until the same mean difference with the same spread would be significant; an "
    "estimate from "
    "few seeds, and even then the chance of significance is about one half."
)
Pairs = Mapping[tuple[str, str], Paired]


def baseline_tables(rows: Sequence[Row]) -> tuple[Grid, ...]:
    """One for each baseline: every other method's difference to it."""
    titles = {row.name: row.title for row in rows}
    return tuple(
        _baseline_table(base, titles[base], [row for row in rows if base in row.minus])
        for base in bases(rows)
    )


def _baseline_table(base: str, title: str, rows: Sequence[Row]) -> Grid:
    numbers = ("Δ (points)", "95 % interval", "n", "Effect size", "p", "p, Holm")
    columns = [Column("Method", words=True), *map(Column, numbers), Column("Result", words=True)]
    cells: list[list[str | Cell]] = []
    for row in rows:
        paired = row.minus[base]
        cells.append(
            [
                row.title,
                decimals(paired.mean, sign=True),
                interval_text(paired, sign=True),
                str(paired.n),
                decimals(paired.effect, sign=True),
                p_value(paired.p),
                p_value(paired.holm),
                verdict(paired, title),
            ]
        )
    return Grid.of(f"versus-{base}", f"Differences to {title}", CAPTION, columns, cells, "No other method.")


def all_pairs(rows: Sequence[Row], looks: tuple[int, ...] = ()) -> Pairs:
    """Every method minus every later one; one family of tests, corrected for looks at the seeds."""
    students = [row for row in rows if row.name != TEACHER]
    return compare_runs(
        {(one.name, other.name): differences(one, other) for one, other in combinations(students, 2)}, looks
    )


def pairs_table(rows: Sequence[Row], pairs: Pairs) -> Grid | None:
    """Every method minus every other; None where they are too many to be read."""
    students = [row for row in rows if row.name != TEACHER]
    if not 3 <= len(students) <= MAX_ROWS:
        return None

    def cell(one: str, other: str) -> Cell:
        if one == other:
            return Cell(NONE)
        sign, paired = (1, pairs[one, other]) if (one, other) in pairs else (-1, pairs[other, one])
        if paired.mean is None:
            return Cell(NONE)
        significant = paired.holm is not None and paired.holm < ALPHA
        return Cell(decimals(sign * paired.mean, sign=True) + "*" * significant, strong=significant)

    columns = [Column("Row minus column", words=True), *(Column(row.title) for row in students)]
    significant = sum(paired.holm is not None and paired.holm < ALPHA for paired in pairs.values())
    caption = (
        "Mean difference in top-1 error at the last epoch, seed by seed, in points. *: significant at the 5 "
        "% level "
        f"after Holm's correction for all {len(pairs)} pairs; {significant} of them are."
    )
    cells: list[list[str | Cell]] = [
        [row.title, *(cell(row.name, other.name) for other in students)] for row in students
    ]
    return Grid.of("pairs", "Mean differences", caption, columns, cells)


def pair_quantities(rows: Sequence[Row], pairs: Pairs) -> list[dict[str, Any]]:
    """For the CSV file: the comparisons with each baseline, then all pairs; a family of tests each."""
    lines = [
        (f"against {base}", row.name, base, row.minus[base])
        for base in bases(rows)
        for row in rows
        if base in row.minus
    ]
    lines += [("all pairs", one, other, paired) for (one, other), paired in pairs.items()]
    return [
        {
            "family": family,
            "method": method,
            "minus": base,
            "n": paired.n,
            "mean": paired.mean,
            "std": paired.std,
            "low": paired.low,
            "high": paired.high,
            "effect_size": paired.effect,
            "p": paired.p,
            "p_holm": paired.holm,
            "comparisons": paired.family,
            "further_seeds": paired.further_seeds,
            "verdict": paired.verdict,
        }
        for family, method, base, paired in lines
    ]
