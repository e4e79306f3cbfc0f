"""The tables of differences over teachers as well as seeds, and the split of their variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdkd.report.crossed import Over
from cdkd.report.document import NONE, Column, Grid
from cdkd.report.over_teachers import ends, split_of, table_of
from cdkd.report.summary import Row, differences
from cdkd.report.wording import decimals, p_value

OVERS: tuple[tuple[Over, str], ...] = (
    ("columns", "Over seeds, with these teachers"),
    ("rows", "Over teachers, with these seeds"),
    ("both", "Over teachers and seeds"),
)
CAPTION = (
    "Top-1 error at the last epoch minus the baseline's, teacher by teacher and seed by seed, in points. "
    "Three 95 % intervals of the mean, and what could have been another. Over seeds: students trained again "
    "from these teachers. Over teachers: other teachers of this recipe, with these seeds of the students. "
    "Over both: other teachers and other students; two-way random effects, Satterthwaite's degrees of "
    "freedom. All other tables have this last interval. Standard deviations: of the effect of the teacher, "
    "of the seed, and of the rest, by expected mean squares; an estimate below 0 is shown as 0."
)


def teacher_tables(rows: Sequence[Row], bases: Sequence[str]) -> tuple[Grid, ...]:
    """The differences to each baseline over teachers and seeds; none of one teacher."""
    titles = {row.name: row.title for row in rows}
    grids = []
    for base in bases:
        lines = [_line(titles[line["method"]], line) for line in teacher_quantities(rows, (base,))]
        if lines:
            columns = [
                Column("Method", words=True),
                Column("Δ (points)"),
                *(Column(name) for _, name in OVERS),
            ]
            columns += [Column(f"Std of {part}") for part in ("teacher", "seed", "rest")]
            columns += [Column("p, over both, Holm")]
            title = f"Differences to {titles[base]}, over teachers and seeds"
            grids.append(Grid.of(f"teachers-{base}", title, CAPTION, columns, lines))
    return tuple(grids)


def _line(title: str, line: Mapping[str, Any]) -> list[str]:
    cells = [title, decimals(line["mean"], sign=True)]
    for over, _ in OVERS:
        low, high = line[f"{over}_low"], line[f"{over}_high"]
        cells.append(NONE if low is None else f"{decimals(low, sign=True)} to {decimals(high, sign=True)}")
    cells += [decimals(line[f"std_{part}"]) for part in ("teacher", "seed", "rest")]
    return [*cells, p_value(line["p_holm"])]


def teacher_quantities(rows: Sequence[Row], bases: Sequence[str]) -> list[dict[str, Any]]:
    """For the CSV file: a line for each comparison that has two teachers and two seeds."""
    lines = []
    for base in bases:
        against = next(row for row in rows if row.name == base)
        for row in rows:
            values = differences(row, against) if base in row.minus else {}
            table, split = table_of(values), split_of(values)
            if table is None or split is None:
                continue
            line: dict[str, Any] = {"method": row.name, "minus": base, "mean": table.mean}
            line |= {"teachers": table.shape[0], "seeds": table.shape[1]}
            for over, _ in OVERS:
                line |= {f"{over}_{end}": one for end, one in ends(table.interval(over)).items()}
            lines.append(
                line | {f"std_{part}": one for part, one in split.items()} | {"p_holm": row.minus[base].holm}
            )
    return lines
