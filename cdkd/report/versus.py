"""Methods against each other, seed by seed: the tables of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from cdkd.report.collect import TEACHER
from cdkd.report.document import NONE, Cell, Column, Grid
from cdkd.report.phrases import fixed, interval, probability, verdict
from cdkd.report.statistics import ALPHA, Paired, compare
from cdkd.report.summary import Row, differences
from cdkd.report.tables import bases

MOST_ROWS = 24  # of the table of all pairs; beyond, only the file has them
RULE = (
    "Same seed, initialisation and batches: differences are taken seed by seed, in points of top-1 error at the last epoch; negative means fewer errors. "
    "Interval and p: two-sided paired t test, which takes the differences for normally distributed. "
    "Effect size: Cohen's d_z (mean over standard deviation of the differences) with Hedges' correction, from three seeds on. "
)
FURTHER = (
    "Holm: p corrected for all comparisons with this baseline; below 0.05 the difference is taken for settled. "
    "Further seeds: how many more until the same mean difference with the same spread would be settled; at that number the chances are about even."
)
Pairs = Mapping[tuple[str, str], Paired]


def versus_tables(rows: Sequence[Row]) -> tuple[Grid, ...]:
    """One for each baseline: every other method's difference to it."""
    return tuple(_versus(base, [row for row in rows if base in row.minus]) for base in bases(rows))


def _versus(base: str, rows: Sequence[Row]) -> Grid:
    columns = [
        Column("Method", words=True),
        *map(Column, ("Δ (points)", "95 % interval", "n", "Effect size", "p", "p, Holm")),
        Column("Verdict", words=True),
    ]
    cells: list[list[str | Cell]] = []
    for row in rows:
        paired = row.minus[base]
        numbers = [
            fixed(paired.mean, sign=True),
            interval(paired, sign=True),
            str(paired.n),
            fixed(paired.effect, sign=True),
        ]
        cells.append(
            [row.title, *numbers, probability(paired.p), probability(paired.holm), verdict(paired, base)]
        )
    return Grid.of(
        f"versus-{base}", f"Differences to {base}", RULE + FURTHER, columns, cells, "No other method."
    )


def all_pairs(rows: Sequence[Row]) -> Pairs:
    """Every method minus every later one; one family of tests."""
    students = [row for row in rows if row.name != TEACHER]
    return compare(
        {(one.name, other.name): differences(one, other) for one, other in combinations(students, 2)}
    )


def pairs_table(rows: Sequence[Row], pairs: Pairs) -> Grid | None:
    """Every method minus every other; None where they are too many to be read."""
    students = [row for row in rows if row.name != TEACHER]
    if not 3 <= len(students) <= MOST_ROWS:
        return None

    def cell(one: str, other: str) -> Cell:
        if one == other:
            return Cell(NONE)
        sign, paired = (1, pairs[one, other]) if (one, other) in pairs else (-1, pairs[other, one])
        if paired.mean is None:
            return Cell(NONE)
        settled = paired.holm is not None and paired.holm < ALPHA
        return Cell(fixed(sign * paired.mean, sign=True) + "*" * settled, strong=settled)

    columns = [Column("Row minus column", words=True), *(Column(row.name) for row in students)]
    settled = sum(paired.holm is not None and paired.holm < ALPHA for paired in pairs.values())
    caption = f"Mean difference in top-1 error at the last epoch, seed by seed, in points. *: settled at 5 % after Holm's correction over all {len(pairs)} pairs; "
    return Grid.of(
        "pairs",
        "Mean differences",
        caption + f"{settled} are.",
        columns,
        [[row.name, *(cell(row.name, other.name) for other in students)] for row in students],
    )


def pair_quantities(rows: Sequence[Row], pairs: Pairs) -> list[dict[str, Any]]:
    """For the file: the comparisons with the baselines, then all pairs, each family by its name."""
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
            "further_seeds": paired.further,
            "verdict": paired.verdict,
        }
        for family, method, base, paired in lines
    ]
