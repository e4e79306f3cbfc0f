"""The sections of the report, in their order, and what each contains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cdkd.config.params import Params
from cdkd.report import looks
from cdkd.report.collect import TEACHER
from cdkd.report.document import Block, Collapsed, Column, Document, Grid, Items, Picture, Section, Text
from cdkd.report.error_tables import Classes, class_table, measures_table, worst_classes_table
from cdkd.report.headline import headline, title
from cdkd.report.image_tests import image_tables
from cdkd.report.local_page import local_section
from cdkd.report.notes import legend, table_notes
from cdkd.report.pairwise import Pairs, baseline_tables, pairs_table
from cdkd.report.peers_table import peers_tables
from cdkd.report.provenance import inputs, methods_paragraph, networks, reproduce, runs_table, setting
from cdkd.report.summary import Row
from cdkd.report.tables import Links, bases, method_table, no_links, overview
from cdkd.report.teacher_tables import teacher_tables
from cdkd.report.wording import plural

TABLES = ("ablation", "comparison")
SAME_COLUMNS = "Columns as in the table above."


class Deviation(Protocol):
    """One difference between our recipe and the published one, with its known effect."""

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
    """Everything that a report is made of, once the records are read."""

    params: Params
    rows: Mapping[str, Row]
    pairs: Pairs
    classes: Classes
    pictures: Mapping[str, Picture]  # those that were drawn
    class_names: Sequence[str] = ()
    deviations: Mapping[str, Sequence[Deviation]] = field(default_factory=dict)
    search: SearchSection | None = None

    def table(self, name: str) -> tuple[Row, ...]:
        return tuple(self.rows[row] for row in (TEACHER, *self._chosen(name)))

    def _chosen(self, name: str) -> tuple[str, ...]:
        """The table's methods; the comparison also lists those that params.yaml puts in no table."""
        chosen: tuple[str, ...] = getattr(self.params.report, name) or tuple(self.params.methods)
        if name == "comparison":
            other = self._chosen("ablation")
            chosen += tuple(row for row in self.params.methods if row not in (*chosen, *other))
        return chosen

    @property
    def tables(self) -> dict[str, tuple[Row, ...]]:
        """Heading -> rows; one where both tables have the same."""
        if len({self._chosen(name) for name in TABLES}) == 1:
            return {"Ablation and comparison": self.table(TABLES[0])}
        return {name.capitalize(): self.table(name) for name in TABLES}

    @property
    def all_rows(self) -> tuple[Row, ...]:
        return tuple(self.rows.values())

    @property
    def empty(self) -> bool:
        return all(run.state == "missing" for row in self.all_rows for run in row.runs)

    def grid(self, heading: str, rows: Sequence[Row], links: Links = no_links) -> Grid:
        return method_table(heading.split()[0].lower(), heading, rows, links)


def compose(report: Report, links: Links | None = None) -> Document:
    """The whole report. Sections without content are left out.

    links: to the runs in MLflow; with them the document is the local page, which also holds dates and times
    """
    rows = report.all_rows
    measured = [] if report.empty else _measured(report)
    local = [local_section(rows, links)] if links is not None and not report.empty else []
    sections = (
        Section("tables", "Tables", _table_blocks(report)),
        *measured,
        *_search(report.search),
        *_published(report.deviations),
        Section("notes", "Notes", _note_blocks(report)),
        Section(
            "provenance",
            "Where the numbers come from",
            (inputs(rows), Collapsed("Every run", (runs_table(rows),))),
        ),
        *local,
        Section("reproduce", "How to reproduce this report", reproduce(report.params, rows)),
    )
    first, *others = headline(report.rows)
    lead: tuple[Block, ...] = (
        first,
        *looks.lead(report.params, report.rows),
        *others,
        overview(rows, links or no_links),
        setting(report.params, report.rows[TEACHER]),
    )
    return Document(title(report.params), lead, tuple(section for section in sections if section.blocks))


def _table_blocks(report: Report) -> tuple[Block, ...]:
    """The tables of methods. Those with the first one's columns do not explain them again."""
    added = looks.paragraph(report.params, report.rows)
    first, *others = (report.grid(heading, shown) for heading, shown in report.tables.items())
    return (
        first,
        *(replace(one, caption=SAME_COLUMNS) if one.caption == first.caption else one for one in others),
        Collapsed(
            "Paragraph for a paper: protocol, seeds, statistics",
            (Text(methods_paragraph(report.params, report.all_rows).text + added),),
        ),
    )


def _measured(report: Report) -> list[Section]:
    """The sections that need results."""
    rows = report.all_rows
    differences = (
        *looks.tables(report.params, report.rows),
        *_pictures(report, "forest"),
        *_shortened(baseline_tables(rows)),
        *_shortened(teacher_tables(rows, bases(rows))),
        *_shortened(image_tables(rows)),
        *_all_pairs(report),
    )
    curves = _pictures(report, "curves", "schedules", "shares", "alignment", "peers")
    return [
        Section("seeds", "Single seeds", _pictures(report, "errors")),
        Section("differences", "Are the differences significant?", differences),
        Section("training", "Training curves", curves),
        Section("errors", "Calibration, agreement and classes", _error_blocks(report)),
        Section("networks", "Networks", (networks(rows), *peers_tables(rows))),
    ]


def _note_blocks(report: Report) -> tuple[Block, ...]:
    rows = report.all_rows
    notes = [f"{note}." for note in table_notes(report.params, rows)]
    methods = Items(tuple(legend(report.params, rows)))
    return (
        *((Items.plain(notes),) if notes else ()),
        Collapsed("Methods as run (weight, term, options; epochs count from 0)", (methods,)),
    )


def _published(deviations: Mapping[str, Sequence[Deviation]]) -> list[Section]:
    if not any(deviations.values()):
        return []
    return [Section("published", "Differences to the published recipes", _deviations(deviations))]


def _pictures(report: Report, *names: str) -> tuple[Picture, ...]:
    return tuple(report.pictures[name] for name in names if name in report.pictures)


def _shortened(grids: Iterable[Grid]) -> tuple[Grid, ...]:
    return tuple(replace(grid, caption=SAME_COLUMNS) if index else grid for index, grid in enumerate(grids))


def _all_pairs(report: Report) -> tuple[Block, ...]:
    grid = pairs_table(report.all_rows, report.pairs)
    return (Collapsed("Every method against every other", (grid,)),) if grid else ()


def _error_blocks(report: Report) -> tuple[Block, ...]:
    rows = report.all_rows
    measures = measures_table(rows)
    if measures is None:
        return (
            Text(
                "Calibration, agreement with the teacher and errors by class are not recorded in these runs."
            ),
        )
    worst, more = (worst_classes_table(rows, report.classes, report.class_names, most) for most in (1, 3))
    every = class_table(rows, report.class_names)
    details = (("More classes with more errors", more), ("Every class", every))
    return (
        measures,
        *_pictures(report, "reliability"),
        *([worst] if worst else []),
        *_pictures(report, "confusion"),
        *(Collapsed(title, (grid,)) for title, grid in details if grid),
    )


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
        cells = [[str(cell) for cell in line] for line in lines]
        blocks.append(Grid.of("search-trials", "Best settings", "", columns, cells))
    blocks += [Picture(name, caption, caption) for name, _, _, caption in search.pictures]
    return [Section("search", search.title, tuple(blocks))]


def _deviations(deviations: Mapping[str, Sequence[Deviation]]) -> tuple[Block, ...]:
    titles = ("What", "Ours", "Theirs", "Known effect", "Source")
    columns = [Column(name, words=True) for name in titles]
    details = []
    for method, those in deviations.items():
        if those:
            cells: list[list[Any]] = [
                [one.what, one.ours, one.theirs, one.worth, one.source] for one in those
            ]
            grid = Grid.of(f"published-{method}", method, "", columns, cells)
            details.append(Collapsed(f"{method}: {plural(len(those), 'difference')}", (grid,)))
    return tuple(details)
