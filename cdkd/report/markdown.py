"""The report as Markdown, for a repository and MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdkd.report.document import Block, Cell, Code, Collapsed, Document, Grid, Items, Picture, Text
from cdkd.report.escape import md
from cdkd.report.wording import decimals


def markdown(document: Document) -> str:
    parts = [f"# {md(document.title)}", *_blocks(document.lead, 2)]
    for section in document.sections:
        parts += [f"## {md(section.title)}", *_blocks(section.blocks, 3)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def table(grid: Grid) -> str:
    """The rows alone; a table without rows shows its header and the reason."""
    header = [
        _line([md(column.title) for column in grid.columns]),
        f"|{'|'.join('---' if column.words else '---:' for column in grid.columns)}|",
    ]
    if not grid.rows:
        return "\n".join([*header, "", grid.empty, ""])
    return "\n".join([*header, *(_line([_cell(cell) for cell in row]) for row in grid.rows), ""])


def standalone(grid: Grid, notes: Sequence[str], legend: Sequence[tuple[str, str]]) -> str:
    """A table with its caption, footnotes and methods in full."""
    return (
        "\n\n".join(part.rstrip("\n") for part in (table(grid), md(grid.caption), *_notes(notes, legend)))
        + "\n"
    )


def _notes(notes: Sequence[str], legend: Sequence[tuple[str, str]]) -> list[str]:
    methods = "Methods as run (weight, loss, options; epochs count from 0):\n\n" + _items(
        Items(tuple(legend))
    )
    return [*([_items(Items.plain([f"{note}." for note in notes]))] if notes else []), methods]


def _blocks(blocks: Iterable[Block], level: int) -> list[str]:
    parts: list[str] = []
    for block in blocks:
        match block:
            case Grid():
                parts += [
                    f"{'#' * level} {md(block.title)}",
                    table(block),
                    *([md(block.caption)] if block.caption else []),
                ]
            case Text():
                parts.append(md(block.text))
            case Items():
                parts.append(_items(block))
            case Code():
                parts.append("\n".join(["```sh", *block.lines, "```"]))
            case Picture():
                parts.append(f"![{md(block.alt)}]({block.name}.svg)\n\n{md(block.caption)}")
            case Collapsed():
                parts += [f"{'#' * level} {md(block.title)}", *_blocks(block.blocks, min(level + 1, 6))]
    return parts


def _items(items: Items) -> str:
    return "\n".join(f"- {f'**{md(term)}**: ' if term else ''}{md(text)}" for term, text in items.items)


def _cell(cell: Cell) -> str:
    text = f"**{md(cell.text)}**" if cell.strong and cell.text else md(cell.text)
    if cell.bar and cell.bar.low is not None and cell.bar.high is not None:
        text += f" ({decimals(cell.bar.low, sign=True)} to {decimals(cell.bar.high, sign=True)})"
    return " ".join([text, *(f"[{md(link.text)}](<{link.address}>)" for link in cell.links)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
