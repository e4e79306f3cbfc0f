"""Puts the report together: which section says what, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cdkd.config.params import Params
from cdkd.report.beyond import Classes, beyond_table, class_table, hurt_table
from cdkd.report.collect import TEACHER
from cdkd.report.document import Block, Column, Document, Fold, Grid, Items, Picture, Section, Text
from cdkd.report.headline import headline, title
from cdkd.report.notes import legend, table_notes
from cdkd.report.provenance import inputs, reproduce, runs_table, setting, size_and_cost
from cdkd.report.summary import Row
from cdkd.report.tables import Links, method_table
from cdkd.report.versus import Pairs, pairs_table, versus_tables

TABLES = ("ablation", "comparison")
AS_BEFORE = "Columns as in the table before."


class Deviation(Protocol):
    """One way in which our recipe differs from the published one, and what that is known to be worth."""

    @property
    def what(self) -> str: ...
    @property
    def ours(self) -> str: ...
    @property
    def theirs(self) -> str: ...
    @property
    def worth(self) -> str: ...
    @property
    def source(self) -> str: ...


class SearchSection(Protocol):
    """What a search for weights found, as a section; pictures: name, SVG, PNG, caption."""

    title: str
    paragraphs: list[str]
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None
    pictures: list[tuple[str, bytes, bytes, str]]


@dataclass(frozen=True)
class Report:
    """All that a report is made of, once the records are read."""

    params: Params
    rows: Mapping[str, Row]
    pairs: Pairs
    classes: Classes
    pictures: Mapping[str, Picture]  # those that were drawn
    links: Links
    class_names: Sequence[str] = ()
    deviations: Mapping[str, Sequence[Deviation]] = field(default_factory=dict)
    search: SearchSection | None = None

    def table(self, name: str) -> tuple[Row, ...]:
        return tuple(self.rows[row] for row in (TEACHER, *self._chosen(name)))

    def _chosen(self, name: str) -> tuple[str, ...]:
        return getattr(self.params.report, name) or tuple(self.params.methods)

    @property
    def tables(self) -> dict[str, tuple[Row, ...]]:
        """Heading -> rows; one where both tables have the same."""
        if len({self._chosen(name) for name in TABLES}) == 1:
            return {"Ablation and comparison": self.table(TABLES[0])}
        return {name.capitalize(): self.table(name) for name in TABLES}

    @property
    def every(self) -> tuple[Row, ...]:
        return tuple(self.rows.values())

    @property
    def empty(self) -> bool:
        return all(run.state == "missing" for row in self.every for run in row.runs)

    def grid(self, heading: str, rows: Sequence[Row]) -> Grid:
        return method_table(heading.split()[0].lower(), heading, rows, self.links)


def compose(report: Report) -> Document:
    """The whole report. Sections of which nothing is known are left out."""
    rows = report.every
    tables = [report.grid(heading, shown) for heading, shown in report.tables.items()]
    grids = [
        *tables[:1],
        *(
            replace(grid, caption=AS_BEFORE) if grid.caption == tables[0].caption else grid
            for grid in tables[1:]
        ),
    ]
    sections = [Section("tables", "Results", (*grids, *_pictures(report, "errors")))]
    if not report.empty:
        sections += [
            Section(
                "differences",
                "Is the difference chance?",
                (*_pictures(report, "forest"), *_shortened(versus_tables(rows)), *_all_pairs(report)),
            ),
            Section(
                "training", "Over the epochs", _pictures(report, "curves", "schedules", "shares", "alignment")
            ),
            Section("beyond", "Beyond top-1", _beyond(report)),
            Section("cost", "Size, speed and cost", (size_and_cost(rows),)),
        ]
    sections += _search(report.search)
    sections += (
        [Section("gap", "What differs from the published recipes", _deviations(report.deviations))]
        if any(report.deviations.values())
        else []
    )
    notes = [f"{note}." for note in table_notes(report.params, rows)]
    methods = Fold(
        "Methods as run (weight, loss, options; epochs count from 0)",
        (Items(tuple(legend(report.params, rows))),),
    )
    sections += [
        Section("notes", "Notes", ((Items.plain(notes),) if notes else ()) + (methods,)),
        Section(
            "provenance",
            "Where the numbers come from",
            (inputs(rows), Fold("Every run", (runs_table(rows, report.links),))),
        ),
        Section("reproduce", "How to reproduce this table", reproduce(report.params, rows)),
    ]
    lead = (*headline(rows), setting(report.params, report.rows[TEACHER]))
    return Document(title(report.params), lead, tuple(section for section in sections if section.blocks))


def _pictures(report: Report, *names: str) -> tuple[Picture, ...]:
    return tuple(report.pictures[name] for name in names if name in report.pictures)


def _shortened(grids: Iterable[Grid]) -> tuple[Grid, ...]:
    return tuple(replace(grid, caption=AS_BEFORE) if index else grid for index, grid in enumerate(grids))


def _all_pairs(report: Report) -> tuple[Block, ...]:
    grid = pairs_table(report.every, report.pairs)
    return (Fold("Every method against every other", (grid,)),) if grid else ()


def _beyond(report: Report) -> tuple[Block, ...]:
    rows = report.every
    first, every = beyond_table(rows), class_table(rows, report.class_names)
    hurt, more = (hurt_table(rows, report.classes, report.class_names, worst) for worst in (1, 3))
    if first is None:
        return (
            Text(
                "Calibration, agreement with the teacher and errors by class are not recorded in these runs."
            ),
        )
    blocks: list[Block] = [
        first,
        *_pictures(report, "reliability"),
        *([hurt] if hurt else []),
        *_pictures(report, "confusion"),
    ]
    blocks += [
        Fold(title, (grid,))
        for title, grid in (("More of the classes that distillation hurts", more), ("Every class", every))
        if grid
    ]
    return tuple(blocks)


def _search(search: SearchSection | None) -> list[Section]:
    if search is None:
        return []
    blocks: list[Block] = [Text(paragraph) for paragraph in search.paragraphs]
    if search.table is not None:
        header, lines = search.table
        words = [
            not any(line[index][:1].isdigit() for line in lines if index < len(line))
            for index in range(len(header))
        ]
        columns = [Column(name, words=words[index]) for index, name in enumerate(header)]
        blocks.append(
            Grid.of(
                "search-trials",
                "Best settings",
                "",
                columns,
                [[str(cell) for cell in line] for line in lines],
            )
        )
    blocks += [Picture(name, caption, caption) for name, _, _, caption in search.pictures]
    return [Section("search", search.title, tuple(blocks))]


def _deviations(deviations: Mapping[str, Sequence[Deviation]]) -> tuple[Block, ...]:
    columns = [
        Column(name, words=True)
        for name in ("What", "Ours", "Theirs", "What it is known to be worth", "Source")
    ]
    folds = []
    for method, those in deviations.items():
        if those:
            cells: list[list[Any]] = [
                [one.what, one.ours, one.theirs, one.worth, one.source] for one in those
            ]
            folds.append(
                Fold(
                    f"{method}: {len(those)} difference{'s' * (len(those) != 1)}",
                    (Grid.of(f"gap-{method}", method, "", columns, cells),),
                )
            )
    return tuple(folds)
