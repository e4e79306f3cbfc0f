"""Writes the report of an experiment: tables, pictures, an overview, and the metrics that DVC compares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cdkd.files import write_atomically
from cdkd.params import Params
from cdkd.report.collect import TEACHER, Expected, collect
from cdkd.report.figures import draw
from cdkd.report.formats import comma_separated, console, latex, markdown, markdown_notes, md
from cdkd.report.notes import faults, legend, recipe, table_notes
from cdkd.report.summary import Row, rows
from cdkd.report.tables import Table, shown

TABLES = ("ablation", "comparison")
PICTURES = {
    "curves": "Top-1 error on the test split over the epochs: mean and range over seeds",
    "errors": "Top-1 error at the last epoch: a point for each seed, a stroke at the mean",
    "schedules": "The weights of the losses over the epochs, where they change, and the learning rate",
}


def render(params: Params, expected: Expected, runs: Path, target: Path) -> list[str]:
    """Write the report into `target` and return its tables as lines for a terminal.

    expected: today's fingerprint of each (method, seed) and of ("teacher", its seed)
    runs: the folder with `<method>/seed-<n>.json`
    Equal records give equal bytes, wherever and whenever they are rendered.
    """
    all_rows = rows(params, collect(params, expected, runs))
    tables = [_table(params, name, all_rows) for name in TABLES]
    files: dict[str, str | bytes] = {}
    for table in tables:
        files[f"{table.name}.md"] = markdown(table) + "\n" + markdown_notes(table)
        files[f"{table.name}.csv"] = comma_separated(table)
        files[f"{table.name}.tex"] = latex(table, f"{table.name.capitalize()}: {_title(params)}.")
    nothing = all(run.state == "missing" for row in all_rows.values() for run in row.runs)
    pictures = {} if nothing else draw(params, all_rows)
    files |= pictures
    files["metrics.json"] = json.dumps(_metrics(all_rows), indent=1, allow_nan=False) + "\n"
    files["report.md"] = _overview(params, all_rows, tables, [name for name in PICTURES if f"{name}.svg" in pictures])
    lines = [line for table in _distinct(tables) for line in (f"{_heading(table, tables)}: {_title(params)}", *console(table), "")]
    files["tables.txt"] = "\n".join(lines) + "\n"
    for name, content in files.items():
        write_atomically(target / name, content)
    for name in PICTURES:  # an earlier report's, which today's records do not allow
        for suffix in ("svg", "png"):
            if f"{name}.{suffix}" not in files:
                (target / f"{name}.{suffix}").unlink(missing_ok=True)
    return lines


def _table(params: Params, name: str, all_rows: Mapping[str, Row]) -> Table:
    chosen: tuple[str, ...] = getattr(params.report, name) or tuple(params.methods)
    shown_rows = tuple(all_rows[row] for row in (TEACHER, *chosen))
    return Table(name, shown_rows, tuple(table_notes(params, shown_rows)), tuple(legend(params, shown_rows)))


def _distinct(tables: list[Table]) -> list[Table]:
    """Without the second table where it has the rows of the first."""
    return tables[:1] if tables[0].rows == tables[1].rows else tables


def _heading(table: Table, tables: list[Table]) -> str:
    return table.name.capitalize() if len(_distinct(tables)) > 1 else "Ablation and comparison"


def _title(params: Params) -> str:
    part = f" ({params.data.train_images} training images)" if params.data.train_images else ""
    name = "" if params.experiment == params.data.source else f"{params.experiment}: "
    return f"{name}{params.data.source}{part}, {params.teacher.network} → {params.student.network}, recipe {params.training.recipe}"


def _metrics(all_rows: Mapping[str, Row]) -> dict[str, dict[str, float | int | None]]:
    return {name: {"top1_error": row.top1.mean, "std": row.top1.std, "n": row.top1.n} for name, row in all_rows.items()}


def _overview(params: Params, all_rows: Mapping[str, Row], tables: list[Table], pictures: list[str]) -> str:
    both = Table("all", tuple(all_rows.values()), tuple(table_notes(params, all_rows.values())), tuple(legend(params, all_rows.values())))
    parts = [f"# {md(_title(params))}", _teacher(params, all_rows[TEACHER])]
    parts.append(md(f"Students: {params.student.network}, {recipe(params.training)}; seeds {', '.join(map(str, params.seeds))}.") + "\n")
    for table in _distinct(tables):
        parts += [f"## {_heading(table, tables)}", markdown(table)]
    parts += ["## Pictures\n\n" + "\n\n".join(f"{text}.\n\n![{text}]({name}.svg)" for name, text in PICTURES.items() if name in pictures)] if pictures else []
    parts += ["## Notes", markdown_notes(both)]
    parts += ["## How to reproduce", _how(params, both)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _teacher(params: Params, row: Row) -> str:
    record = row.runs[0].ok
    digest = str(record.result.get("weights_sha256", "unknown"))[:12] if record else ""
    state = f"top-1 error {shown(row.top1)} % at the last epoch, weights {digest}" if record else faults(row.runs)
    how = f"weights from {params.teacher.weights}" if params.teacher.weights else recipe(params.teacher.training)
    return md(f"Teacher: {params.teacher.network}, {state}; {how}.")


def _how(params: Params, table: Table) -> str:
    records = [run.ok for row in table.rows for run in row.runs if run.ok]
    commits = sorted({str(git["commit"])[:12] for record in records if isinstance(git := record.circumstances.get("git"), dict) and git.get("commit")})
    checkout = [f"git checkout {commits[0]}"] if len(commits) == 1 else []
    several = f"The records come from the commits {', '.join(commits)}; a run counts where its fingerprint is today's.\n\n" if len(commits) > 1 else ""
    lines = ["```sh", *checkout, "make env && . .venv/bin/activate", f"cdkd use {params.experiment}   # makes it params.yaml", "dvc repro", "```"]
    return several + "\n".join(lines)
