"""The table of several experiments, as Markdown, LaTeX, CSV and lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdkd.config.params import Params
from cdkd.report.collect import TEACHER, Expected
from cdkd.report.csv_files import comma_separated
from cdkd.report.document import NONE
from cdkd.report.escape import md, tex
from cdkd.report.method_names import paper_names
from cdkd.report.notes import STALE, UNVERIFIED, excluded, formula, recipe
from cdkd.report.published import Reference
from cdkd.report.summary import Row, Summary
from cdkd.report.wording import mean_std

CAPTION = (
    "Top-1 error in percent on the test split at the last epoch, mean ± sample standard deviation over n "
    f"seeds. “{NONE}”: the experiment has no such method, or nothing is published. Published values are "
    "those of their source's protocol, which may differ from ours."
)


@dataclass(frozen=True)
class Experiment:
    """One column of the table.

    expected: today's fingerprint of each of its runs; runs: the folder with `<method>/seed-<n>.json`
    report: the folder of its committed report, which is read where there are no records
    """

    params: Params
    expected: Expected
    runs: Path
    report: Path | None = None

    @property
    def title(self) -> str:
        params = self.params
        name = "" if params.experiment == params.data.source else f"{params.experiment}: "
        return f"{name}{params.data.source}, {params.teacher.network} → {params.student.network}"


@dataclass(frozen=True)
class Table:
    """Methods × experiments."""

    experiments: Sequence[Experiment]
    columns: Sequence[Mapping[str, Row]]  # of each experiment, by method
    committed: Sequence[bool]  # of each experiment: whether its numbers are from a committed report

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(name for column in self.columns for name in column))

    @property
    def references(self) -> list[str]:
        """The published values' protocols and sources, in the order of their footnotes."""
        return list(
            dict.fromkeys(
                _cited(row.published)
                for method in self.methods
                for column in self.columns
                if (row := column.get(method)) and row.published
            )
        )

    def _with_published(self, column: Mapping[str, Row]) -> bool:
        return any(row.published for row in column.values())

    def header(self) -> list[list[str]]:
        """Of each experiment: its title, and "published" where it has any."""
        return [
            [one.title, *(["published"] if self._with_published(column) else [])]
            for one, column in zip(self.experiments, self.columns, strict=True)
        ]

    def cells(self, method: str) -> list[list[str]]:
        """Of each experiment: our result or what is missing, and the published one with its footnote."""
        found = []
        for column in self.columns:
            row = column.get(method)
            cells = [_ours(row)]
            if self._with_published(column):
                there = row.published if row else None
                cells.append(
                    f"{mean_std(Summary(there.top1_error, there.top1_std, 1))} "
                    f"[{self.references.index(_cited(there)) + 1}]"
                    if there
                    else NONE
                )
            found.append(cells)
        return found

    def notes(self) -> list[str]:
        notes = [f"[{number}] {text}" for number, text in enumerate(self.references, 1)]
        for one in self.experiments:
            seeds = ", ".join(map(str, one.params.seeds))
            notes.append(
                f"{one.title}: recipe “{one.params.training.recipe}” ({recipe(one.params.training)}); seeds "
                f"{seeds}"
            )
        notes += [
            f"{one.title}: from the committed report, whose fingerprints were not compared with today's code"
            for one, committed in zip(self.experiments, self.committed, strict=True)
            if committed
        ]
        states = {run.state for column in self.columns for row in column.values() for run in row.runs}
        return notes + [
            text for state, text in (("stale", STALE), ("unverified", UNVERIFIED)) if state in states
        ]

    def forms(self) -> list[str]:
        """Methods of one name that differ between experiments, written out in full."""
        notes = []
        for method in self.methods:
            forms: dict[str, list[str]] = {}
            for one in self.experiments:
                if method in one.params.methods:
                    forms.setdefault(formula(one.params.methods[method]), []).append(one.params.experiment)
            if len(forms) > 1:
                notes.append(
                    f"{method} differs between the experiments: "
                    + "; ".join(f"{text} ({', '.join(names)})" for text, names in forms.items())
                )
        return notes

    def markdown(self) -> str:
        titles = paper_names(self.methods)
        header = [cell for cells in self.header() for cell in cells]
        lines = [_line(["Method", *header]), "|---|" + "---:|" * len(header)]
        lines += [
            _line([titles[method], *(cell for cells in self.cells(method) for cell in cells)])
            for method in self.methods
        ]
        notes = [f"- {md(note)}." for note in (*self.notes(), *self.forms())]
        return "\n".join(
            [
                f"# {md(' and '.join(one.params.experiment for one in self.experiments))}",
                "",
                *lines,
                "",
                md(CAPTION),
                "",
                *notes,
                "",
            ]
        )

    def latex(self) -> str:
        """A table environment, which needs the packages booktabs and graphicx."""
        titles = paper_names(self.methods)
        header = self.header()
        place, rules, heads = 2, [], []
        for cells in header:
            heads.append(f"\\multicolumn{{{len(cells)}}}{{c}}{{{tex(cells[0])}}}")
            rules.append(f"\\cmidrule(lr){{{place}-{place + len(cells) - 1}}}")
            place += len(cells)
        below = [text for cells in header for text in ("ours", *cells[1:])]
        body = [
            " & ".join(map(tex, [titles[method], *(cell for cells in self.cells(method) for cell in cells)]))
            + " \\\\"
            for method in self.methods
        ]
        lines = [
            "% \\usepackage{booktabs,graphicx}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{tex(CAPTION)}}}",
            "\\resizebox{\\textwidth}{!}{%",
        ]
        lines += [
            f"\\begin{{tabular}}{{l{'r' * (place - 2)}}}",
            "\\toprule",
            f" & {' & '.join(heads)} \\\\",
            " ".join(rules),
        ]
        lines += [
            f"Method & {' & '.join(below)} \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}}",
            "\\par\\smallskip\\footnotesize\\raggedright",
        ]
        return "\n".join(
            [*lines, *(f"{tex(note)}.\\par" for note in (*self.notes(), *self.forms())), "\\end{table}", ""]
        )

    def comma_separated(self) -> str:
        """A line for each method of each experiment, in full precision, empty where there is nothing."""
        lines = [
            _quantities(one, method, column.get(method))
            for one, column in zip(self.experiments, self.columns, strict=True)
            for method in self.methods
        ]
        return comma_separated(lines)

    def console(self) -> list[str]:
        table = [["method", *(cell for cells in self.header() for cell in cells)]]
        table += [
            [method, *(cell for cells in self.cells(method) for cell in cells)] for method in self.methods
        ]
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ] + ["", *self.notes()]


def _ours(row: Row | None) -> str:
    if row is None:
        return NONE
    if all(run.state == "missing" for run in row.runs):
        return "no records"
    number = f"{mean_std(row.top1)} (n = {row.top1.n})" if row.top1.n else ""
    return "; ".join(filter(None, (number, excluded(row.runs))))


def _cited(there: Reference) -> str:
    return f"{there.protocol}; {there.source}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(md, cells))} |"


def _quantities(one: Experiment, method: str, row: Row | None) -> dict[str, Any]:
    params, there = one.params, row.published if row else None
    cells: dict[str, Any] = {
        "experiment": params.experiment,
        "data": params.data.source,
        "teacher": params.teacher.network,
    }
    cells |= {"student": params.student.network, "recipe": params.training.recipe, "method": method}
    cells |= {
        "as_run": formula(params.methods[method]) if method in params.methods else "",
        "n": row.top1.n if row else "",
    }
    cells |= {
        "top1_error_mean": row.top1.mean if row else None,
        "top1_error_std": row.top1.std if row else None,
    }
    cells |= {"best_epoch_top1_error_mean": row.best.mean if row else None}
    cells |= {
        "published_top1_error": there.top1_error if there else None,
        "published_top1_std": there.top1_std if there else None,
    }
    cells |= {
        "published_protocol": there.protocol if there else None,
        "published_source": there.source if there else None,
    }
    return cells | {"excluded": excluded(row.runs) if row else "" if method == TEACHER else "no such method"}
