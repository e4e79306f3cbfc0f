"""What a report consists of, before it is written as a page, Markdown or LaTeX: sections of text, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

NONE = "–"


class Link(NamedTuple):
    text: str
    address: str
    says: str = ""  # for who hears it without its surroundings


@dataclass(frozen=True)
class Cell:
    """A cell with more than its text: links, and an emphasis (the page's alone)."""

    text: str
    links: tuple[Link, ...] = ()
    strong: bool = False


class Column(NamedTuple):
    title: str
    words: bool = False  # set to the left, and broken into lines


@dataclass(frozen=True)
class Grid:
    """A table. The first cell of a row is its name; `name` is that of its file and its address in the page."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = "Nothing to show."  # said where there are no rows

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
        return cls(
            name,
            title,
            caption,
            tuple(columns),
            tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows),
            empty,
        )


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
    """`name`.svg and `name`.png; `says` is its alternative text."""

    name: str
    caption: str
    says: str


@dataclass(frozen=True)
class Fold:
    """What only some readers want: closed in the page, set in full elsewhere."""

    title: str
    blocks: tuple[Block, ...]


Block = Grid | Text | Items | Code | Picture | Fold


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
