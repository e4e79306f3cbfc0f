"""Values that differ from run to run although the results are equal: commits, dates, times, links to MLflow.

It is written to local.html and local.csv in the report's folder, which git ignores.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from cdkd.report.document import NONE, Block, Cell, Column, Grid, Items, Link, Section
from cdkd.report.history import finite
from cdkd.report.notes import git_notes
from cdkd.report.provenance import SHORT, part
from cdkd.report.summary import Row
from cdkd.report.tables import Links
from cdkd.report.wording import decimals, duration, plural
from cdkd.runs.record import Record

ENVIRONMENT = ("device", "torch", "threads", "processor")
FILES = ("local.html", "local.csv")
IGNORE = "# They differ from run to run although the results are equal.\n" + "".join(
    f"/{name}\n" for name in FILES
)


def local_section(rows: Sequence[Row], links: Links) -> Section:
    notes = git_notes(rows)
    blocks: list[Block] = [cohorts(rows), latencies(rows), runs_table(rows, links)]
    blocks += [Items.plain([f"{note}." for note in notes])] if notes else []
    return Section("local", "Times and links of these runs", tuple(blocks))


def cohorts(rows: Sequence[Row]) -> Grid:
    """One line for every training process. A method's own share of a cohort's time is not measured."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for row in rows:
        for record in row.records:
            members = record.circumstances.get("cohort")
            names = ", ".join(map(str, members)) if isinstance(members, list) and members else record.method
            key = (str(record.circumstances.get("started", NONE)), str(record.seed), names)
            found.setdefault(key, []).append(record)
    columns = [Column("Trained together", words=True), *map(Column, ("Seed", "Wall time", "Images/s"))]
    columns.append(Column("Started (UTC)", words=True))
    cells = []
    for (started, seed, names), records in sorted(found.items()):
        seconds = [value for record in records if (value := _measured(record, "seconds")) is not None]
        rates = [value for record in records if (value := _measured(record, "images_per_second")) is not None]
        count = names.count(",") + 1
        name = names if count <= 3 else f"{plural(count, 'student')}: {names}"
        cells.append(
            [
                name,
                seed,
                duration(max(seconds, default=None)),
                f"{max(rates):,.0f}" if rates else NONE,
                started.replace("T", " ").removesuffix("+00:00"),
            ]
        )
    caption = (
        "Students of one seed are trained together by one process, which computes each batch and the "
        "teacher's outputs "
        "once. Wall time and images per second (training images of all its students) are the process's; what "
        "one "
        "method costs alone is not measured. Of a process that was interrupted and resumed, the last part "
        "counts."
    )
    return Grid.of("cohorts", "Training time", caption, columns, cells)


def latencies(rows: Sequence[Row]) -> Grid:
    found: dict[str, list[float]] = {}
    for row in rows:
        values = (_measured(record, "latency_ms") for record in row.records)
        found.setdefault(row.network, []).extend(value for value in values if value is not None)
    columns = [Column("Network", words=True), Column("Median (ms)"), Column("Range (ms)"), Column("Runs")]
    cells = [
        [
            network,
            decimals(statistics.median(values)),
            f"{decimals(min(values))} to {decimals(max(values))}",
            str(len(values)),
        ]
        for network, values in found.items()
        if values
    ]
    caption = (
        "Forward pass of one image (batch 1, float32) on the machine that trained the run: each run measures "
        "the median "
        "of repeated passes once, right after training, while other processes may be busy. Listed: median "
        "and range over "
        "the runs of the network; the range shows how far one measurement can be trusted."
    )
    return Grid.of("latency", "Latency", caption, columns, cells, "Not recorded in these runs.")


def runs_table(rows: Sequence[Row], links: Links) -> Grid:
    columns = [
        Column("Run", words=True),
        Column("Commit", words=True),
        Column("Device", words=True),
        Column("Started (UTC)", words=True),
        Column("MLflow", words=True),
    ]
    cells: list[list[str | Cell]] = []
    for row in rows:
        for record in row.records:
            address = links(record)
            link = Cell(NONE) if address is None else Cell("", (Link("run", address, "run in MLflow"),))
            started = str(record.circumstances.get("started", NONE)).replace("T", " ").removesuffix("+00:00")
            device = str(part(record, "environment").get("device", NONE))
            device += " (imported)" * bool(record.circumstances.get("imported"))
            cells.append([f"{row.title}, seed {record.seed}", _commit(record), device, started, link])
    caption = (
        "Commit: of the code when the run ended; + means with uncommitted changes. "
        "Imported: trained elsewhere. "
        "MLflow is started by `cdkd ui`."
    )
    return Grid.of("local-runs", "Runs", caption, columns, cells)


def local_quantities(rows: Sequence[Row], links: Links) -> list[dict[str, Any]]:
    """For local.csv: every run that counts."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        for record in row.records:
            git, environment = part(record, "git"), part(record, "environment")
            cohort = record.circumstances.get("cohort")
            line = {"method": row.name, "seed": record.seed, "fingerprint": record.fingerprint}
            line |= {"commit": git.get("commit"), "dirty": git.get("dirty")}
            line |= {key: environment.get(key) for key in ENVIRONMENT}
            line |= {
                "imported": bool(record.circumstances.get("imported")),
                "started": record.circumstances.get("started"),
                "cohort_size": len(cohort) if isinstance(cohort, list) else None,
                "cohort_seconds": _measured(record, "seconds"),
                "cohort_images_per_second": _measured(record, "images_per_second"),
                "latency_ms": _measured(record, "latency_ms"),
            }
            lines.append(line | {"mlflow": links(record)})
    return lines


def _measured(record: Record, key: str) -> float | None:
    return finite(record.circumstances.get(key))


def _commit(record: Record) -> str:
    git = part(record, "git")
    return "no git" if not git.get("commit") else str(git["commit"])[:SHORT] + "+" * bool(git.get("dirty"))
