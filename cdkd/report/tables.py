"""The tables of methods: the overview of the first screen, and the tables that a paper has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cdkd.config.every_study import TUNED
from cdkd.report.collect import TEACHER, label
from cdkd.report.document import NONE, Bar, Cell, Column, Grid, Link
from cdkd.report.notes import excluded
from cdkd.report.published import compare_published
from cdkd.report.statistics import Summary
from cdkd.report.summary import BASELINES, Row
from cdkd.report.wording import decimals, interval_text, mean_std, verdict
from cdkd.runs.record import Record

NO_RECORDS = (
    "No records yet: `dvc repro` trains the runs that params.yaml names, and `cdkd report` shows them."
)
CAPTION = (
    "Errors in percent on the test split, mean ± sample standard deviation over n seeds. The last epoch is "
    "the "
    "main result; the best epoch is chosen on the test split and is listed because some sources report it. "
    "95 % interval: Student's t interval of the mean at the last epoch. Δ: top-1 error at the last epoch "
    "minus "
    "that of the baseline, averaged over the seeds that both have; negative means fewer errors."
)
PUBLISHED = (
    " Published: top-1 error under the protocol of its source, which may differ from ours. Ours − published: "
    "our best epoch where the source reports its best, else our last. The last column but one says whether "
    "the "
    "published value lies in the 95 % interval of our mean; the spread of the published value is not "
    "included."
)
OVERVIEW = (
    "Top-1 error in percent on the test split at the last epoch, mean ± sample standard deviation over "
    "seeds; "
    "bold: the lowest mean of the students. Difference: to {base}, in points, seed by seed; bar: mean and 95 "
    "% "
    "interval, with a line at 0. Result: paired t tests at the 5 % level, Holm-corrected for all comparisons."
)
LINKS_CAPTION = (
    " The small numbers are the single seeds and lead to their runs in MLflow (started by `cdkd ui`)."
)
SEVERAL_TEACHERS = (
    " There are several teachers: every interval and test here is over teachers and seeds (two-way random "
    "effects)."
)
MIN_CLASSES_FOR_TOP5 = 11
BUDGET = "Search: trials × epochs"
Links = Callable[[Record], str | None]  # the address of a record's run in MLflow


def no_links(record: Record) -> None:
    """Of a report that may be read on another machine."""


def overview(rows: Sequence[Row], links: Links = no_links) -> Grid:
    """Every method in one table: its error, and its difference to the first baseline as a small bar.

    Where each compared method was tuned, tuned rows have the tuned baseline, and the budgets a column.
    """
    base = next(iter(bases(rows)), None)
    tuned = next((name for name in bases(rows) if name == f"{base}{TUNED}"), None)
    columns = [Column("Method", words=True), Column("Top-1 error (%)")]
    columns += [Column(f"Difference to {_title(rows, base)}"), Column("Result", words=True)] if base else []
    columns += [Column(BUDGET, words=True)] if tuned else []
    best = lowest(rows)
    pairs = [row.minus[name] for row in rows for name in (base, tuned) if name and name in row.minus]
    left, right = _scale(pairs) if base else (0.0, 0.0)
    lines: list[list[Cell | str]] = []
    for row in [] if _empty(rows) else rows:
        line: list[Cell | str] = [_name(row), _error(row, links, strong=row is best)]
        if base and row.name in (base, tuned):
            line += [NONE, "baseline"]
        elif base:
            mine = tuned if tuned and tuned in row.minus else base
            line += _difference(row, mine, _title(rows, mine), left, right)
        line += [row.budget or NONE] if tuned else []
        lines.append(line)
    caption = (OVERVIEW.format(base=_title(rows, base)) if base else CAPTION) + _scope(rows)
    caption += f" Tuned methods: to {_title(rows, tuned)}." if tuned else ""
    return Grid.of("overview", "All methods", caption, columns, lines, NO_RECORDS)


def _difference(row: Row, base: str, title: str, left: float, right: float) -> list[Cell | str]:
    """The cells of a row's difference to a baseline, with a bar, and of its result."""
    paired = row.minus.get(base)
    if paired is None or paired.mean is None:
        return [NONE, NONE]
    bar = Bar(paired.mean, paired.low, paired.high, left, right)
    hint = f"95 % interval {interval_text(paired, sign=True)}, n = {paired.n}"
    cell = Cell(decimals(paired.mean, sign=True), bar=bar, hint=hint, order=paired.mean)
    return [cell, verdict(paired, title).partition(";")[0]]


def method_table(name: str, title: str, rows: Sequence[Row], links: Links = no_links) -> Grid:
    """As papers have it: ablation or comparison."""
    published = any(row.published for row in rows)
    baselines = bases(rows)
    top5, searched = _with_top5(rows), any(row.budget for row in rows)
    columns = [
        Column("Method", words=True),
        Column("Top-1 error, last epoch (%)"),
        Column("95 % interval"),
        Column("Top-1 error, best epoch (%)"),
        *([Column("Top-5 error, last epoch (%)")] if top5 else []),
        *(Column(f"Δ {_title(rows, base)}") for base in baselines),
        *([Column(BUDGET, words=True)] if searched else []),
    ]
    if published:
        columns += [
            Column("Published top-1 error (%)"),
            Column("Ours − published"),
            Column("Published value in our interval", words=True),
            Column("Published protocol and source", words=True),
        ]
    best = lowest(rows)
    cells = (
        []
        if _empty(rows)
        else [_cells(row, baselines, published, top5, searched, links, row is best) for row in rows]
    )
    linked = any(isinstance(cell, Cell) and cell.links for line in cells for cell in line)
    caption = CAPTION + _scope(rows) + PUBLISHED * published + LINKS_CAPTION * linked
    return Grid.of(name, title, caption, columns, cells, NO_RECORDS)


def _scope(rows: Sequence[Row]) -> str:
    """What intervals and tests are over, where that is more than seeds."""
    several = any(run.teacher is not None for row in rows for run in row.runs)
    return SEVERAL_TEACHERS * several


def bases(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(base for base in BASELINES if any(base in row.minus for row in rows))


def lowest(rows: Sequence[Row]) -> Row | None:
    """The student with the lowest mean error, where there are two or more to compare."""
    students = [row for row in rows if row.name != TEACHER and row.top1.mean is not None]
    return min(students, key=lambda row: row.top1.mean or 0.0) if len(students) > 1 else None


def _title(rows: Sequence[Row], name: str | None) -> str:
    from cdkd.report.method_names import paper_names

    return next((row.title for row in rows if row.name == name), paper_names([name])[name] if name else "")


def _empty(rows: Sequence[Row]) -> bool:
    return all(run.state == "missing" for row in rows for run in row.runs)


def _with_top5(rows: Sequence[Row]) -> bool:
    """Of ten classes or fewer the top-5 error says little."""
    classes = [row.classes for row in rows if row.classes is not None]
    return not classes or max(classes) >= MIN_CLASSES_FOR_TOP5


def _name(row: Row) -> Cell:
    return Cell(row.title, hint="" if row.title == row.name else f"in params.yaml: {row.name}")


def _error(row: Row, links: Links, strong: bool) -> Cell:
    n = row.top1.n
    top1 = f"{mean_std(row.top1)} (n = {n})" if n else ""
    to_runs = tuple(
        Link(
            decimals(row.errors[run.key]), address, f"{run.label}: {decimals(row.errors[run.key])}, in MLflow"
        )
        for run in row.runs
        if run.ok and (address := links(run.ok))
    )
    between = "; " if any(isinstance(key, tuple) for key in row.errors) else ", "
    seeds = between.join(f"{label(key)}: {decimals(error)}" for key, error in row.errors.items())
    text = "; ".join(filter(None, (top1, excluded(row.runs))))
    return Cell(text, to_runs, strong=strong, hint=seeds, order=row.top1.mean)


def _cells(
    row: Row,
    baselines: Sequence[str],
    published: bool,
    top5: bool,
    searched: bool,
    links: Links,
    strong: bool,
) -> list[Cell | str]:
    n = row.top1.n
    cells: list[Cell | str] = [_name(row), _error(row, links, strong), interval_text(row.top1)]
    cells += [mean_std(row.best, n), *([mean_std(row.top5, n)] if top5 else [])]
    cells += [
        mean_std(row.minus[base], n, sign=True, spread=False) if base in row.minus else NONE
        for base in baselines
    ]
    cells += [row.budget or NONE] if searched else []
    if published and row.published:
        there, ours = row.published, compare_published(row.published, row.top1, row.best)
        cells += [
            mean_std(Summary(there.top1_error, there.top1_std, 1)),
            decimals(ours.difference, sign=True),
            ours.verdict,
            f"{there.protocol}; {there.source}",
        ]
    elif published:
        cells += [NONE] * 4
    return cells


def _scale(pairs: Sequence[Summary]) -> tuple[float, float]:
    """From the differences themselves: an interval of two seeds is tens of points long, and is cut."""
    values = [0.0, *(paired.mean for paired in pairs if paired.mean is not None)]
    ends = [end for paired in pairs for end in (paired.low, paired.high) if end is not None]
    room = max(max(values) - min(values), 1e-3) / 2
    left, right = max(min(values) - room, min(values + ends)), min(max(values) + room, max(values + ends))
    return min(left, 0.0), max(right, 1e-9)


def console(rows: Sequence[Row]) -> list[str]:
    """Aligned lines for a terminal; methods have their names of params.yaml."""
    if _empty(rows):
        return [NO_RECORDS]
    baselines = bases(rows)
    lines = [["method", "top-1 error, %", *(f"Δ {base}" for base in baselines), ""]]
    for row in rows:
        top1 = f"{mean_std(row.top1)} (n = {row.top1.n})" if row.top1.n else NONE
        minus = [
            mean_std(row.minus[base], row.top1.n, sign=True, spread=False) if base in row.minus else NONE
            for base in baselines
        ]
        name = f"{TEACHER} ({row.network})" if row.name == TEACHER else row.name
        lines.append([name + " (tuned)" * bool(row.tuned), top1, *minus, excluded(row.runs)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
