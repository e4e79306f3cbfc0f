"""The table of methods, as the paper has it: which rows and columns, and what its cells say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cdkd.report.document import NONE, Cell, Column, Grid, Link
from cdkd.report.notes import faults
from cdkd.report.phrases import fixed, interval, shown, si
from cdkd.report.published import against
from cdkd.report.statistics import Summary
from cdkd.report.summary import BASELINES, Row
from cdkd.runs.record import Record

__all__ = ["CAPTION", "NONE", "NO_RECORDS", "bases", "console", "method_table", "shown", "si"]

NO_RECORDS = (
    "No records yet: `dvc repro` trains the runs that params.yaml names, and `cdkd report` shows them."
)
CAPTION = (
    "Errors in percent on the test split, mean ± sample standard deviation over n seeds; the last epoch is the headline, the best epoch is beside it. "
    "95 % interval: of the mean at the last epoch (Student's t). "
    "Δ: top-1 error at the last epoch minus that of the baseline, mean of the differences seed by seed; negative means fewer errors."
)
LINKED = " The small numbers are the seeds; they lead to the runs in MLflow, where `cdkd ui` serves it."
PUBLISHED = (
    " Published: top-1 error under the protocol of its source, which need not be ours. Ours − published: against our best epoch where the source "
    "reports its best, else our last. "
    "The verdict asks whether the published value lies in the 95 % interval of our mean; its own spread, seldom published, is not in it."
)
Links = Callable[[Record], str | None]  # the address of a record's run in MLflow


def method_table(name: str, title: str, rows: Sequence[Row], links: Links = lambda record: None) -> Grid:
    published = any(row.published for row in rows)
    baselines = bases(rows)
    columns = [
        Column("Method", words=True),
        Column("Top-1 error, last epoch (%)"),
        Column("95 % interval"),
        Column("Top-1 error, best epoch (%)"),
        Column("Top-5 error, last epoch (%)"),
        *(Column(f"Δ {base}") for base in baselines),
    ]
    if published:
        columns += [
            Column("Published top-1 error (%)"),
            Column("Ours − published"),
            Column("Verdict", words=True),
        ]
        columns += [Column("Published protocol and source", words=True)]
    empty = all(run.state == "missing" for row in rows for run in row.runs)
    cells = [] if empty else [_cells(row, baselines, published, links) for row in rows]
    linked = any(isinstance(cell, Cell) and cell.links for line in cells for cell in line)
    return Grid.of(name, title, CAPTION + PUBLISHED * published + LINKED * linked, columns, cells, NO_RECORDS)


def bases(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(base for base in BASELINES if any(base in row.minus for row in rows))


def _cells(row: Row, baselines: Sequence[str], published: bool, links: Links) -> list[Cell | str]:
    n = row.top1.n
    top1 = f"{shown(row.top1)} (n = {n})" if n else ""
    to_runs = tuple(
        Link(
            fixed(row.errors[record.seed]),
            address,
            f"seed {record.seed}: {fixed(row.errors[record.seed])}, in MLflow",
        )
        for record in row.records
        if (address := links(record))
    )
    cells: list[Cell | str] = [
        row.title,
        Cell("; ".join(filter(None, (top1, faults(row.runs)))), to_runs, strong=True),
        interval(row.top1),
    ]
    cells += [shown(Summary(row.best.mean, None, row.best.n), n), shown(row.top5, n)]
    cells += [
        shown(row.minus[base], n, sign=True, spread=False) if base in row.minus else NONE
        for base in baselines
    ]
    if published and row.published:
        there, ours = row.published, against(row.published, row.top1, row.best)
        cells += [
            shown(Summary(there.top1_error, there.top1_std, 1)),
            fixed(ours.difference, sign=True),
            ours.verdict,
            f"{there.protocol}; {there.source}",
        ]
    elif published:
        cells += [NONE] * 4
    return cells


def console(rows: Sequence[Row]) -> list[str]:
    """Method, top-1 error at the last epoch with n, and the differences to the baselines, aligned."""
    if all(run.state == "missing" for row in rows for run in row.runs):
        return [NO_RECORDS]
    baselines = bases(rows)
    lines = [["method", "top-1 error, %", *(f"Δ {base}" for base in baselines), ""]]
    for row in rows:
        top1 = f"{shown(row.top1)} (n = {row.top1.n})" if row.top1.n else NONE
        minus = [
            shown(row.minus[base], row.top1.n, sign=True, spread=False) if base in row.minus else NONE
            for base in baselines
        ]
        lines.append([row.title, top1, *minus, faults(row.runs)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
