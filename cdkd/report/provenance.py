"""Where the numbers come from: data, weights, code, environment, and the commands that repeat them.

All of it is the same for equal results; dates, times, commits and links are in `local_page.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from cdkd.config.params import Params
from cdkd.report.collect import TEACHER, number
from cdkd.report.document import NONE, Cell, Code, Column, Grid, Items, Text
from cdkd.report.headline import DATASETS
from cdkd.report.notes import excluded, recipe
from cdkd.report.summary import BASELINES, Row
from cdkd.report.wording import decimals, join_names, mean_std, plural, si_prefix
from cdkd.runs.adopted import trained_by, unverified_code
from cdkd.runs.record import Record

SHORT = 12  # characters of a digest that are shown


def networks(rows: Sequence[Row]) -> Grid:
    """Size of teacher and student as they are deployed."""
    teacher = next((row for row in rows if row.name == TEACHER), None)
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        share = ("", "")
        if teacher and row is not teacher:
            share = (
                _ratio(row.parameters, teacher.parameters),
                _ratio(row.multiply_adds, teacher.multiply_adds),
            )
        sizes = (si_prefix(row.parameters) + share[0], si_prefix(row.multiply_adds) + share[1])
        if row.records:
            lines.setdefault((row.network, *sizes), []).append(row.title)
    every = {row.title for row in rows if row.name != TEACHER and row.records}
    cells = [
        [network, "all students" if set(titles) == every and len(titles) > 1 else ", ".join(titles), *sizes]
        for (network, *sizes), titles in lines.items()
    ]
    columns = [Column("Network", words=True), Column("Used by", words=True), Column("Parameters")]
    caption = (
        "Of the network as it is deployed, without connectors or other parts that only training needs. "
        "Multiply-adds: "
        "of one image's forward pass. In brackets: share of the teacher's."
    )
    return Grid.of("networks", "Networks", caption, [*columns, Column("Multiply-adds")], cells)


def runs_table(rows: Sequence[Row]) -> Grid:
    columns = [Column("Run", words=True), Column("State", words=True), Column("Top-1 error (%)")]
    columns += [Column("Fingerprint", words=True), Column("Code", words=True)]
    cells: list[list[str | Cell]] = []
    for row in rows:
        for run in row.runs:
            record = run.record
            digests = (
                [record.fingerprint[:SHORT], code_of(record)[:SHORT] or NONE] if record else [NONE, NONE]
            )
            counts = "counts, not verified" if run.ok and unverified_code(run.ok) else "counts"
            error = decimals(row.errors.get(run.key))
            cells.append([f"{row.title}, {run.label}", counts if run.ok else run.state, error, *digests])
    caption = (
        "Every run that params.yaml names. Fingerprint: digest of everything that affects the result; the "
        "run is stored under it in .cdkd/store. Code: digest of the source code that affects the result."
    )
    if any(run.ok and unverified_code(run.ok) for row in rows for run in row.runs):
        caption += " Not verified: that code is not today's; see the notes."
    return Grid.of("runs", "Runs", caption, columns, cells)


def run_quantities(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For the CSV file: every run; `cdkd report --compare` reads it where the records are elsewhere."""
    lines: list[dict[str, Any]] = []
    several = any(run.teacher is not None for row in rows for run in row.runs)
    for row in rows:
        for run in row.runs:
            record, ok = run.record, run.ok
            line: dict[str, Any] = {"method": row.name, "seed": run.seed, "state": run.state}
            line |= {"teacher": "" if run.teacher is None else str(run.teacher)} if several else {}
            line |= {
                "top1_error": row.errors.get(run.key),
                "top5_error": number(ok, "last", "test_top5_error") if ok else None,
                "best_epoch_top1_error": number(ok, "best", "test_top1_error") if ok else None,
            }
            line |= {"fingerprint": record.fingerprint if record else None}
            line |= {"code": code_of(record) if record else None, "detail": run.detail}
            lines.append(line)
    return lines


def inputs(rows: Sequence[Row]) -> Items:
    """Digests and environments, each with how many runs share it where they differ."""
    records = [record for row in rows for record in row.records]
    students = [record for row in rows if row.name != TEACHER for record in row.records]
    environments = [
        " · ".join(
            f"{key} {value}"
            for key, value in sorted(part(record, "environment").items())
            if not isinstance(value, dict)
        )
        for record in records
    ]
    items = [
        ("Data", _counted(_of_config(record, "data", "digest") for record in records)),
        (
            "Teacher's weights",
            _counted(_of_config(record, "teacher", "weights_sha256") for record in students),
        ),
        ("Environment", _counted(environments)),
        (
            "Store",
            "every run is in .cdkd/store under its fingerprint; fingerprints and code digests are in “Every "
            "run” and "
            "in runs.csv; commits, dates, times and links to MLflow are in local.html and local.csv, which "
            "are not "
            "committed",
        ),
    ]
    return Items(tuple(items))


def setting(params: Params, teacher: Row) -> Items:
    """Teacher and students in one line each."""
    records = teacher.records
    digest = ", ".join(str(record.result.get("weights_sha256", "unknown"))[:SHORT] for record in records)
    when = "" if params.teacher.weights else " at the last epoch"
    state = (
        f"top-1 error {mean_std(teacher.top1)} %{when}, weights {digest}"
        if records
        else excluded(teacher.runs)
    )
    how = (
        f"weights from {params.teacher.weights}"
        if params.teacher.weights
        else recipe(params.teacher.training)
    )
    start = f" from the weights {params.student.weights}" if params.student.weights else ""
    seeds = f"seed{'s' if len(params.seeds) > 1 else ''} {', '.join(map(str, params.seeds))}"
    return Items(
        (
            ("Teacher", f"{params.teacher.network}, {state}; {how}."),
            ("Students", f"{params.student.network}{start}, {recipe(params.training)}; {seeds}."),
        )
    )


def methods_paragraph(params: Params, rows: Sequence[Row]) -> Text:
    """Protocol, seeds and statistics, as a paper states them; to copy."""
    data = DATASETS.get(params.data.source, params.data.source)
    part = f" (the first {params.data.train_images} training images of a seeded draw)" * bool(
        params.data.train_images
    )
    bases = [
        row.title if row.name != "student" else "the student alone" for row in rows if row.name in BASELINES
    ]
    tuned = [row.title for row in rows if row.tuned]
    teachers = len(params.teacher.all_seeds)
    seeds = f"{teachers} teachers × " * (teachers > 1) + plural(len(params.seeds), "seed")
    text = (
        f"We distil {params.teacher.network} into {params.student.network} on {data}{part}. Students are "
        "trained for "
        f"{recipe(params.training)}. All methods of one seed start from the same weights and see the same "
        "batches. "
        "We report the top-1 error on the test split after the last epoch, mean ± sample standard deviation "
        "over "
        f"{seeds}; no epoch was chosen on the test split. "  # of weights and recipe the author knows
    )
    if tuned:
        text += (
            f"The weights of {join_names(tuned)} were chosen on a validation split held out of the training "
            "set, after "
            "which the method was trained on the whole training set. "
        )
    if teachers > 1 and bases:
        text += (
            f"Methods are compared with {join_names(bases)} teacher by teacher and seed by seed. Intervals "
            "(95 %) and two-sided tests at the 5 % level are over teachers and seeds: two-way random effects "
            "with Satterthwaite's degrees of freedom; Holm's correction for all comparisons with the same "
            "baseline."
        )
    elif len(params.seeds) > 1 and bases:
        text += (
            f"Methods are compared with {join_names(bases)} by two-sided paired t tests over seeds at the 5 "
            "% level, "
            "with Holm's correction for all comparisons with the same baseline; intervals are 95 % t "
            "intervals "
            "without correction."
        )
    return Text(text.strip())


def reproduce(params: Params, rows: Sequence[Row]) -> tuple[Text | Code, ...]:
    """The exact commands."""
    example = next(
        (name for name in ("kd", *params.methods) if name in params.methods and shlex.quote(name) == name),
        TEACHER,
    )
    return (
        Code(
            (
                "make env && . .venv/bin/activate",
                f"cdkd use {params.experiment}   # copies it to params.yaml",
                "dvc repro   # data, teacher, every run, this report",
                "cdkd report   # the report alone, from the records",
                f"cdkd verify {example}   # trains a finished run again and compares the bits",
            )
        ),
    )


def code_of(record: Record) -> str:
    """Digest of the code that trained the run; older records have it in their configuration."""
    code = trained_by(record) or (record.config.get("code") if isinstance(record.config, dict) else "")
    return str(code or "")


def part(record: Record | None, key: str) -> dict[str, Any]:
    """A part of the record's circumstances, or an empty one."""
    found = record.circumstances.get(key) if record and isinstance(record.circumstances, dict) else None
    return found if isinstance(found, dict) else {}


def _ratio(ours: int | None, theirs: int | None) -> str:
    return f" ({100 * ours / theirs:.0f} %)" if ours and theirs else ""


def _of_config(record: Record, key: str, name: str) -> str:
    found = record.config.get(key) if isinstance(record.config, dict) else None
    return str(found.get(name, "not recorded")) if isinstance(found, dict) else "not recorded"


def _counted(values: Iterable[str]) -> str:
    """ "a" or, where they differ, "a (30 runs); b (3 runs)"."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    several = len(counts) > 1
    texts = [f"{value} ({plural(count, 'run')})" if several else value for value, count in by_count]
    return "; ".join(texts) or "not recorded"
