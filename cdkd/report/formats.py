"""A table as Markdown, LaTeX, CSV and lines for a terminal."""

from __future__ import annotations

import csv
import io
import unicodedata

from cdkd.report.notes import faults
from cdkd.report.summary import BASELINES, Row, Summary
from cdkd.report.tables import NONE, Table, shown, title

NO_RECORDS = "No records yet: `dvc repro` trains the runs that params.yaml names, and `cdkd report` shows them."
TEXT = ("Method", "Published protocol")  # columns of words, set to the left


def markdown(table: Table) -> str:
    header = table.header()
    lines = [_line(header), f"|{'|'.join('---' if column.startswith(TEXT) else '---:' for column in header)}|"]
    if table.empty:
        return "\n".join([*lines, "", NO_RECORDS, ""])
    return "\n".join([*lines, *(_line(table.cells(row)) for row in table.rows), ""])


def markdown_notes(table: Table) -> str:
    """The caption, the footnotes and the methods in full, to stand below the table."""
    notes = [f"- {md(note)}." for note in table.notes]
    legend = [f"- {md(name)}: {md(text)}" for name, text in table.legend]
    paragraphs = [
        md(table.caption),
        *(["\n".join(notes)] if notes else []),
        "Methods as run (weight, loss, options; epochs count from 0):\n\n" + "\n".join(legend),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(map(md, cells))} |"


def md(text: str) -> str:
    """Text that Markdown, with HTML and GitHub's extensions, shows as it is."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in r"\`*_[]|~$#" else character for character in text)


TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}", "±": r"$\pm$", "−": r"$-$",
    "×": r"$\times$", "Δ": r"$\Delta$", "→": r"$\rightarrow$", "–": "--", "“": "``", "”": "''",
} | {character: f"\\{character}" for character in "&%$#_"}  # fmt: skip


def tex(text: str) -> str:
    """Text that LaTeX shows as it is; a character without a counterpart in ASCII becomes a question mark."""

    def one(character: str) -> str:
        if character in TEX:
            return TEX[character]
        return character if character.isascii() else unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"

    return "".join(map(one, " ".join(text.split())))


def latex(table: Table, caption: str) -> str:
    """A table environment, which needs the packages booktabs and graphicx."""
    header = table.header()
    width = len(header)
    columns = "".join("l" if column.startswith(TEXT) else "r" for column in header)
    rows = [f"{' & '.join(map(tex, table.cells(row)))} \\\\" for row in table.rows]
    if table.empty:
        rows = [f"\\multicolumn{{{width}}}{{l}}{{{tex(NO_RECORDS.replace('`', ''))}}} \\\\"]
    notes = [f"{note}." for note in table.notes] + [f"{name}: {text}." for name, text in table.legend]
    lines = ["% \\usepackage{booktabs,graphicx}", "\\begin{table}", "\\centering", f"\\caption{{{tex(f'{caption} {table.caption}')}}}"]
    lines += ["\\resizebox{\\textwidth}{!}{%", f"\\begin{{tabular}}{{{columns}}}", "\\toprule", f"{' & '.join(map(tex, header))} \\\\", "\\midrule"]
    lines += [*rows, "\\bottomrule", "\\end{tabular}}", "\\par\\smallskip\\footnotesize\\raggedright"]
    return "\n".join([*lines, *(f"{tex(note)}\\par" for note in notes), "\\end{table}", ""])


def comma_separated(table: Table) -> str:
    """Full precision, one column a quantity, empty where there is nothing."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(_quantities(table.rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_quantities(row) for row in table.rows)
    return out.getvalue()


def _quantities(row: Row) -> dict[str, object]:
    cells: dict[str, object] = {"method": row.name, "network": row.network, "seeds": " ".join(str(run.seed) for run in row.runs), "n": row.top1.n}
    for name, summary in (("top1_error", row.top1), ("top5_error", row.top5), ("best_epoch_top1_error", row.best)):
        cells |= {f"{name}_mean": summary.mean, f"{name}_std": summary.std}
    for base in BASELINES:
        difference = row.minus.get(base, Summary(None, None, 0))
        cells |= {f"top1_error_minus_{base}_mean": difference.mean, f"top1_error_minus_{base}_std": difference.std, f"pairs_with_{base}": difference.n}
    cells |= {"parameters": row.parameters, "multiply_adds": row.multiply_adds, "images_per_second": row.images_per_second}
    there = row.published
    cells |= {"published_top1_error": there.top1_error if there else None, "published_top1_std": there.top1_std if there else None}
    cells |= {"published_top5_error": there.top5_error if there else None, "published_protocol": there.protocol if there else None}
    return cells | {"published_source": there.source if there else None, "faults": faults(row.runs)}


def console(table: Table) -> list[str]:
    """Method, top-1 error at the last epoch with n, and the differences to the baselines, aligned."""
    if table.empty:
        return [NO_RECORDS]
    bases = table.bases
    lines = [["method", "top-1 error, %", *(f"Δ {base}" for base in bases), ""]]
    for row in table.rows:
        top1 = f"{shown(row.top1)} (n = {row.top1.n})" if row.top1.n else NONE
        lines.append(
            [title(row), top1, *(shown(row.minus[b], row.top1.n, sign=True, spread=False) if b in row.minus else NONE for b in bases), faults(row.runs)]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
