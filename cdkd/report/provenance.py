"""Where the numbers come from: every run, the inputs and machines behind it, and the commands that make them again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from cdkd.config.params import Params
from cdkd.report.collect import TEACHER, Found, finite
from cdkd.report.document import NONE, Cell, Code, Column, Grid, Items, Link, Text
from cdkd.report.notes import faults, recipe
from cdkd.report.phrases import duration, fixed, shown, si
from cdkd.report.summary import Row, cost
from cdkd.report.tables import Links
from cdkd.runs.record import Record

SHORT = 12  # characters of a digest that are shown


def size_and_cost(rows: Sequence[Row]) -> Grid:
    teacher = next((row for row in rows if row.name == TEACHER), None)
    columns = [Column("Method", words=True), Column("Network", words=True)]
    columns += map(
        Column,
        (
            "Parameters",
            "Multiply-adds",
            "Latency (ms)",
            "Training of one run",
            "Training, all seeds",
            "Images/s",
        ),
    )
    cells = []
    for row in rows:
        whole = row.seconds.mean * row.seconds.n if row.seconds.mean is not None else None
        rate = f"{row.images_per_second:,.0f}" if row.images_per_second is not None else NONE
        share = (
            (_ratio(row.parameters, teacher.parameters), _ratio(row.multiply_adds, teacher.multiply_adds))
            if teacher and row is not teacher
            else ("", "")
        )
        sizes = [si(row.parameters) + share[0], si(row.multiply_adds) + share[1]]
        latency = shown(row.latency, row.top1.n) if row.latency.n else "not recorded" if row.top1.n else NONE
        cells.append(
            [row.title, row.network, *sizes, latency, duration(row.seconds.mean), duration(whole), rate]
        )
    caption = (
        "Parameters of the network as it is deployed, and multiply-adds of one image's forward pass; in brackets the share of the teacher's. "
        "Latency: median of one image's forward pass on the machine of the run (batch 1, float32), mean ± standard deviation over the runs. "
        "Training: wall time; methods trained side by side share their cohort's equally, which is approximate. "
        "Images/s: training images of all students of the cohort together. Energy is not measured."
    )
    return Grid.of("cost", "Networks and training", caption, columns, cells)


def runs_table(rows: Sequence[Row], links: Links) -> Grid:
    columns = [
        Column("Run", words=True),
        Column("State", words=True),
        Column("Top-1 error (%)"),
        Column("Fingerprint", words=True),
    ]
    columns += [
        Column("Commit", words=True),
        Column("Device", words=True),
        Column("Started (UTC)", words=True),
        Column("Wall time"),
        Column("Side by side"),
    ]
    cells = [_run(run, row, links) for row in rows for run in row.runs]
    caption = (
        "Every run that params.yaml names. Fingerprint: digest of all that decides the result; the run lies in .cdkd/store under it, and MLflow finds it by "
        "the tag cdkd.fingerprint. Commit: of the code when the run ended; + means with uncommitted changes. Wall time: of the process that finished the run; "
        "side by side: methods that shared it."
    )
    return Grid.of("runs", "Runs", caption, columns, cells)


def _run(run: Found, row: Row, links: Links) -> list[Cell | str]:
    record = run.record
    name = f"{row.title}, seed {run.seed}"
    if record is None:
        return [name, run.state, *[NONE] * 7]
    address = links(record)
    fingerprint = Cell(record.fingerprint[:SHORT], (Link("MLflow", address),) if address else ())
    around = record.circumstances
    cohort = around.get("cohort")
    started = str(around.get("started", NONE)).replace("T", " ").removesuffix("+00:00")
    return [
        name,
        "counts" if run.ok else run.state,
        fixed(row.errors.get(run.seed)),
        fingerprint,
        _commit(record),
        str(_part(record, "environment").get("device", NONE)),
        started,
        duration(finite(around.get("seconds"))),
        str(len(cohort)) if isinstance(cohort, list) else NONE,
    ]


def inputs(rows: Sequence[Row]) -> Items:
    """Commits, digests, machines and times, each with how many runs share it where they differ."""
    records = [record for row in rows for record in row.records]
    students = [record for row in rows if row.name != TEACHER for record in row.records]
    environments = [
        " · ".join(
            f"{key} {value}"
            for key, value in sorted(_part(record, "environment").items())
            if not isinstance(value, dict)
        )
        for record in records
    ]
    started = sorted(
        str(record.circumstances["started"]) for record in records if record.circumstances.get("started")
    )
    seconds = [value for record in records if (value := cost(record)) is not None]
    items = [
        ("Code", _counted(map(_commit, records))),
        (
            "Data",
            _counted(
                str(_part_of_config(record, "data").get("digest", "not recorded")) for record in records
            ),
        ),
        (
            "Teacher's weights",
            _counted(
                str(_part_of_config(record, "teacher").get("weights_sha256", "not recorded"))
                for record in students
            ),
        ),
        ("Environment", _counted(environments)),
        (
            "Trained",
            f"{started[0][:10]} to {started[-1][:10]}, {duration(sum(seconds))} in all"
            if started and seconds
            else "not recorded",
        ),
        (
            "Store",
            "every run lies in .cdkd/store under its fingerprint; fingerprints, links and commits are in “Every run” and in runs.csv",
        ),
    ]
    return Items(tuple(items))


def setting(params: Params, teacher: Row) -> Items:
    """Teacher and students in one line each."""
    record = teacher.runs[0].ok
    digest = str(record.result.get("weights_sha256", "unknown"))[:SHORT] if record else ""
    state = (
        f"top-1 error {shown(teacher.top1)} % at the last epoch, weights {digest}"
        if record
        else faults(teacher.runs)
    )
    how = (
        f"weights from {params.teacher.weights}"
        if params.teacher.weights
        else recipe(params.teacher.training)
    )
    seeds = f"seed{'s' if len(params.seeds) > 1 else ''} {', '.join(map(str, params.seeds))}"
    return Items(
        (
            ("Teacher", f"{params.teacher.network}, {state}; {how}."),
            ("Students", f"{params.student.network}, {recipe(params.training)}; {seeds}."),
        )
    )


def reproduce(params: Params, rows: Sequence[Row]) -> tuple[Text | Code, ...]:
    """The exact commands, and what they need."""
    records = [record for row in rows for record in row.records]
    commits = sorted(
        {str(git["commit"])[:SHORT] for record in records if (git := _part(record, "git")).get("commit")}
    )
    several = (
        (
            Text(
                f"The records come from the commits {', '.join(commits)}; a run counts where its fingerprint is today's."
            ),
        )
        if len(commits) > 1
        else ()
    )
    dirty = any(_part(record, "git").get("dirty") for record in records)
    unclean = (
        (
            Text(
                "Some runs were trained with uncommitted changes: their commit alone need not suffice; the fingerprint tells."
            ),
        )
        if dirty
        else ()
    )
    example = next(
        (name for name in ("kd", *params.methods) if name in params.methods and shlex.quote(name) == name),
        TEACHER,
    )
    lines = [
        *([f"git checkout {commits[0]}"] if len(commits) == 1 else []),
        "make env && . .venv/bin/activate",
    ]
    lines += [
        f"cdkd use {params.experiment}   # makes it params.yaml",
        "dvc repro   # data, teacher, every run, this report",
    ]
    lines += [
        "cdkd report   # the report alone, from the records",
        f"cdkd verify {example}   # trains a finished run again and compares the bits",
    ]
    return (*several, *unclean, Code(tuple(lines)))


def run_quantities(rows: Sequence[Row], links: Links) -> list[dict[str, Any]]:
    """For the file: every run."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        for run in row.runs:
            record = run.record
            line: dict[str, Any] = {
                "method": row.name,
                "seed": run.seed,
                "state": run.state,
                "top1_error": row.errors.get(run.seed),
            }
            git, environment = (_part(record, "git"), _part(record, "environment")) if record else ({}, {})
            line |= {
                "fingerprint": record.fingerprint if record else None,
                "commit": git.get("commit"),
                "dirty": git.get("dirty"),
            }
            line |= {key: environment.get(key) for key in ("device", "torch", "threads", "processor")}
            line |= {
                key: record.circumstances.get(key) if record else None
                for key in ("started", "seconds", "images_per_second", "latency_ms")
            }
            lines.append(
                line
                | {
                    "share_of_seconds": cost(record) if record else None,
                    "mlflow": links(record) if record else None,
                    "detail": run.detail,
                }
            )
    return lines


def _ratio(ours: int | None, theirs: int | None) -> str:
    return f" ({100 * ours / theirs:.0f} %)" if ours and theirs else ""


def _commit(record: Record) -> str:
    git = _part(record, "git")
    return "no git" if not git.get("commit") else str(git["commit"])[:SHORT] + "+" * bool(git.get("dirty"))


def _part(record: Record | None, key: str) -> dict[str, Any]:
    part = record.circumstances.get(key) if record and isinstance(record.circumstances, dict) else None
    return part if isinstance(part, dict) else {}


def _part_of_config(record: Record, key: str) -> dict[str, Any]:
    part = record.config.get(key) if isinstance(record.config, dict) else None
    return part if isinstance(part, dict) else {}


def _counted(values: Iterable[str]) -> str:
    """ "a" or, where they differ, "a (30 runs); b (3 runs)"."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return (
        "; ".join(
            f"{value} ({count} run{'s' * (count != 1)})" if len(counts) > 1 else value
            for value, count in by_count
        )
        or "not recorded"
    )
