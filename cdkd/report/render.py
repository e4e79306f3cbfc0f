"""Writes the report of an experiment: page, Markdown, LaTeX, CSV, figures, and DVC's metrics and curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from cdkd.config.params import Params
from cdkd.report import latex, looks, markdown
from cdkd.report.collect import FoundRun
from cdkd.report.csv_files import comma_separated, curves, method_quantities
from cdkd.report.document import Picture
from cdkd.report.error_tables import class_differences, class_quantities
from cdkd.report.figures import PICTURES, draw
from cdkd.report.headline import title
from cdkd.report.image_tests import image_quantities
from cdkd.report.local_page import FILES, IGNORE, local_quantities
from cdkd.report.notes import legend, table_notes
from cdkd.report.page import page
from cdkd.report.pairwise import all_pairs, pair_quantities
from cdkd.report.provenance import run_quantities
from cdkd.report.sections import TABLES, Deviation, Report, SearchSection, compose
from cdkd.report.summary import Row, rows
from cdkd.report.tables import bases, console
from cdkd.report.teacher_tables import teacher_quantities
from cdkd.runs.record import Record
from cdkd.storage.files import write_atomically

NOTHING: Mapping[str, str] = MappingProxyType({})
Files = dict[str, str | bytes]


def render(
    params: Params,
    found: Mapping[str, tuple[FoundRun, ...]],
    target: Path,
    *,
    tuned: Mapping[str, str] = NOTHING,
    search_section: SearchSection | None = None,
    deviations: Mapping[str, Sequence[Deviation]] = MappingProxyType({}),
    class_names: Sequence[str] = (),
    mlflow: str | None = None,
) -> list[str]:
    """Write the report into `target` and return its tables as lines for a terminal.

    found: every run, from `collect`
    tuned: method -> how a search found its weights, a sentence for a footnote
    deviations: method -> differences between our recipe and the published one
    class_names: of the data set's classes, in order
    mlflow: address of the experiment's page, for links to the runs: "http://127.0.0.1:5000/#/experiments/1"
    Equal results give equal bytes, on any machine and at any time; only local.html and local.csv may differ.
    """
    all_rows = rows(params, found, tuned)
    students = tuple(all_rows.values())
    pictures = _drawn(params, all_rows, search_section, class_names)
    report = Report(
        params=params,
        rows=all_rows,
        pairs=all_pairs(students, params.looks),
        classes=class_differences(students),
        pictures={
            name: Picture(name, caption, alt)
            for name, (caption, alt) in PICTURES.items()
            if f"{name}.svg" in pictures
        },
        class_names=class_names,
        deviations=deviations,
        search=search_section,
    )
    lines = _console(report)
    files = {**_tables(report), **_numbers(report), **pictures, **_pages(report, pictures, mlflow)}
    files["tables.txt"] = "\n".join(lines) + "\n"
    files[".gitignore"] = IGNORE
    for name, content in files.items():
        write_atomically(target / name, content)
    _remove_old(target, files)
    return lines


def _drawn(
    params: Params,
    all_rows: Mapping[str, Row],
    search_section: SearchSection | None,
    class_names: Sequence[str],
) -> dict[str, bytes]:
    """The figures as files."""
    nothing = all(run.state == "missing" for row in all_rows.values() for run in row.runs)
    pictures = {} if nothing else draw(params, all_rows, class_names)
    for name, svg, png, _ in search_section.pictures if search_section is not None else ():
        pictures |= {f"{name}.svg": svg, f"{name}.png": png}
    return pictures


def _pages(report: Report, pictures: Mapping[str, bytes], mlflow: str | None) -> Files:
    """The report in each format, and the local page, which alone has links to MLflow."""
    document, links = compose(report), partial(_link, mlflow)
    local = page(compose(report, links), pictures), comma_separated(local_quantities(report.all_rows, links))
    return {
        "report.md": markdown.markdown(document),
        "report.tex": latex.latex(document),
        "report.html": page(document, pictures),
        **dict(zip(FILES, local, strict=True)),
    }


def _remove_old(target: Path, files: Files) -> None:
    """Remove files of an earlier report that this one does not have."""
    ours = {*PICTURES, *(path.stem for path in target.glob("search-*"))}
    old = [f"{picture}.{suffix}" for picture in ours for suffix in ("svg", "png")]
    old += [f"metrics/{path.name}" for path in target.glob("metrics/*.json")]
    others = ("classes.csv", "curves.csv", "images.csv", "looks.csv", "teachers.csv", "metrics.json")
    for name in [*old, *others]:
        if name not in files:
            (target / name).unlink(missing_ok=True)


def _tables(report: Report) -> Files:
    """Each table of methods by itself, in every format."""
    files: Files = {}
    for name in TABLES:
        shown = report.table(name)
        grid = report.grid(name.capitalize(), shown)
        notes, methods = table_notes(report.params, shown), legend(report.params, shown)
        files[f"{name}.md"] = markdown.standalone(grid, notes, methods)
        files[f"{name}.csv"] = comma_separated([method_quantities(row) for row in shown])
        files[f"{name}.tex"] = latex.standalone(
            grid, f"{name.capitalize()}: {title(report.params)}.", notes, methods
        )
    return files


def _numbers(report: Report) -> Files:
    """The numbers of the other tables as CSV, and DVC's metrics as JSON."""
    files: Files = {
        f"metrics/{name}.json": json.dumps(numbers, allow_nan=False) + "\n"
        for name, numbers in _metrics(report.rows).items()
    }
    files["runs.csv"] = comma_separated(run_quantities(report.all_rows))
    if curve_lines := curves(report.all_rows):
        files["curves.csv"] = curve_lines
    files["differences.csv"] = comma_separated(pair_quantities(report.all_rows, report.pairs))
    if found := looks.quantities(report.params, report.rows):
        files["looks.csv"] = comma_separated(found)
    if teachers := teacher_quantities(report.all_rows, bases(report.all_rows)):
        files["teachers.csv"] = comma_separated(teachers)
    if images := image_quantities(report.all_rows):
        files["images.csv"] = comma_separated(images)
    classes = class_quantities(report.all_rows, report.classes, report.class_names)
    return files | ({"classes.csv": comma_separated(classes)} if classes else {})


def _console(report: Report) -> list[str]:
    return [
        line
        for heading, shown in report.tables.items()
        for line in (f"{heading}: {title(report.params)}", *console(shown), "")
    ]


def _metrics(all_rows: Mapping[str, Row]) -> dict[str, dict[str, float | int | None]]:
    return {
        name: {"top1_error": row.top1.mean, "std": row.top1.std, "n": row.top1.n}
        for name, row in all_rows.items()
    }


def _link(mlflow: str | None, record: Record) -> str | None:
    """The runs of MLflow's experiment with the record's fingerprint: one."""
    if mlflow is None:
        return None
    wanted = quote(f"tags.`cdkd.fingerprint` = '{record.fingerprint}'", safe="")
    return f"{mlflow}/runs?workflowType=machine_learning&searchFilter={wanted}"
