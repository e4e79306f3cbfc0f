"""The parts of a report, independent of HTML, Markdown and LaTeX: sections of text, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

NONE = "–"


class Link(NamedTuple):
    text: str
    address: str
    label: str = ""  # for screen readers, which read it without the cells around


class Bar(NamedTuple):
    """A value with its interval on the scale from `left` to `right`, which the HTML page draws."""

    value: float
    low: float | None
    high: float | None
    left: float
    right: float


@dataclass(frozen=True)
class Cell:
    """A cell with more than its text.

    strong: bold; hint: shown when the pointer rests on the cell; order: the page sorts by it, else by text
    """

    text: str
    links: tuple[Link, ...] = ()
    strong: bool = False
    hint: str = ""
    bar: Bar | None = None
    order: float | None = None


class Column(NamedTuple):
    title: str
    words: bool = False  # aligned left, with line breaks


@dataclass(frozen=True)
class Grid:
    """A table. The first cell of a row is its name; `name` is the table's anchor in the page."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = "Nothing to show."  # shown where there are no rows

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        caption: str,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str | Cell]],
        empty: str = "Nothing to show.",
    ) -> Grid:
        cells = (tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
        return cls(name, title, caption, tuple(columns), tuple(cells), empty)


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Items:
    """A list; each item may begin with a term."""

    items: tuple[tuple[str, str], ...]  # term (or nothing), text

    @classmethod
    def plain(cls, texts: Sequence[str]) -> Items:
        return cls(tuple(("", text) for text in texts))


@dataclass(frozen=True)
class Code:
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """The figure `name`.svg and `name`.png; alt: its text for screen readers."""

    name: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Collapsed:
    """Details: closed at first in the page, printed in full elsewhere."""

    title: str
    blocks: tuple[Block, ...]


Block = Grid | Text | Items | Code | Picture | Collapsed


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    blocks: tuple[Block, ...] = field(default=())


@dataclass(frozen=True)
class Document:
    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]
