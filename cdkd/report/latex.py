"""The report as LaTeX: tables for a paper, and a complete document. Needs booktabs, graphicx and array."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from cdkd.report.document import Block, Cell, Code, Collapsed, Document, Grid, Items, Picture, Text
from cdkd.report.escape import tex

PREAMBLE = (
    r"""\documentclass[a4paper]{article}
\usepackage{array,booktabs,graphicx}
\usepackage[margin=2cm]{geometry}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt plus 2pt}
\setlength{\emergencystretch}{3em}
\setlength{\belowcaptionskip}{4pt}
\makeatletter
% tables and figures stay where they are in the text
\newenvironment{here}[1]{\par\medskip\begin{minipage}{\linewidth}\def\@captype{#1}"""
    r"""\centering}{\end{minipage}\par\medskip}
\makeatother
"""
)
PAGE = 40  # rows of a table on a page; a longer table is continued
WORDS = 26  # characters beyond which a column of words is broken into lines
HEAD = 13  # and a column's title


def latex(document: Document) -> str:
    lines = [
        PREAMBLE + f"\\title{{{tex(document.title)}}}",
        "\\author{}\\date{}",
        "\\begin{document}",
        "\\maketitle",
        *_blocks(document.lead),
    ]
    for section in document.sections:
        lines += [f"\\section{{{tex(section.title)}}}", *_blocks(section.blocks)]
    return "\n".join([*lines, "\\end{document}", ""])


def standalone(grid: Grid, caption: str, notes: Sequence[str], legend: Sequence[tuple[str, str]]) -> str:
    """A table environment for somebody's paper."""
    below = [f"{note}." for note in notes] + [f"{name}: {text}." for name, text in legend]
    lines = [
        "% \\usepackage{array,booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        "\\setlength{\\belowcaptionskip}{4pt}",
        f"\\caption{{{tex(f'{caption} {grid.caption}')}}}",
        *_tabular(grid, grid.rows),
    ]
    lines += ["\\par\\smallskip\\footnotesize\\raggedright"]
    return "\n".join([*lines, *(f"{tex(note)}\\par" for note in below), "\\end{table}", ""])


def _tabular(grid: Grid, rows: Sequence[Sequence[Cell]]) -> list[str]:
    """In its natural width, or shrunk to the width of the line."""
    lengths = [max((len(row[index].text) for row in rows), default=0) for index in range(len(grid.columns))]
    columns = "".join(
        _column(column.words, length) for column, length in zip(grid.columns, lengths, strict=True)
    )
    header = " & ".join(_head(column.title, column.words) for column in grid.columns)
    body = [f"{' & '.join(map(_cell, row))} \\\\" for row in rows]
    if not rows:
        body = [f"\\multicolumn{{{len(grid.columns)}}}{{l}}{{{tex(grid.empty.replace('`', ''))}}} \\\\"]
    lines = [
        "\\sbox0{%",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        f"{header} \\\\",
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}}%",
    ]
    return [*lines, "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi"]


def _cell(cell: Cell) -> str:
    return f"\\textbf{{{tex(cell.text)}}}" if cell.strong and cell.text else tex(cell.text)


def _column(words: bool, length: int) -> str:
    return (
        "r"
        if not words
        else "l"
        if length <= WORDS
        else f">{{\\raggedright\\arraybackslash}}p{{{min(5.5, 2.2 + length / 25):.1f}cm}}"
    )


def _head(title: str, words: bool) -> str:
    lines = textwrap.wrap(title, HEAD, break_long_words=False, break_on_hyphens=False) or [""]
    if len(lines) == 1:
        return tex(title)
    stack = r"\\".join(map(tex, lines))
    return f"\\shortstack[{'l' if words else 'r'}]{{{stack}}}"


def _blocks(blocks: Iterable[Block]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        match block:
            case Grid():
                for start in range(0, max(1, len(block.rows)), PAGE):
                    caption = f"{block.title}. {block.caption}" if not start else f"{block.title}, continued."
                    lines += [
                        "\\begin{here}{table}",
                        f"\\caption{{{tex(caption)}}}",
                        *_tabular(block, block.rows[start : start + PAGE]),
                        "\\end{here}",
                    ]
            case Text():
                lines += [tex(block.text), ""]
            case Items():
                entries = [
                    f"\\item {f'{chr(92)}textbf{{{tex(term)}:}} ' if term else ''}{tex(text)}"
                    for term, text in block.items
                ]
                lines += ["\\begin{itemize}", *entries, "\\end{itemize}"] if entries else []
            case Code():
                lines += [
                    "\\begin{flushleft}\\small\\ttfamily",
                    *(f"{tex(line)}\\\\" for line in block.lines),
                    "\\end{flushleft}",
                ]
            case Picture():
                size = "width=\\linewidth,height=0.8\\textheight,keepaspectratio"
                picture = f"\\includegraphics[{size}]{{{block.name}.png}}"
                lines += [
                    "\\begin{here}{figure}",
                    picture,
                    f"\\caption{{{tex(block.caption)}}}",
                    "\\end{here}",
                ]
            case Collapsed():
                lines += [f"\\subsection*{{{tex(block.title)}}}", *_blocks(block.blocks)]
    return lines
