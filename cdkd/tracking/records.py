"""Completes MLflow's runs from the records."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cdkd.core.errors import CdkdError
from cdkd.core.schedule import TEACHER
from cdkd.runs.record import Record
from cdkd.storage.files import require_writable
from cdkd.tracking import database, experiment_page, fields
from cdkd.tracking.view import View, complete

PATIENCE = 10.0  # seconds for a locked database: somebody waits for an answer, not a training
AT_ONCE = 8  # runs written under one lock, and at once on a server


def rebuild(
    root: Path,
    records: Iterable[Record],
    extras: Callable[[Record], Mapping[str, bytes]] | None = None,
    copies: Collection[str] = (),
) -> tuple[int, int]:
    """Create the runs that MLflow lacks and complete partial ones. Returns how many; a second call: 0, 0.

    A run whose numbers differ from its record is written again: the database was damaged or edited.
    Runs without a record are left as they are: one that shows as RUNNING may be in training, or was killed
    and continues when its command is given again.

    records: the workspace's first; of several of one method and seed the first is the current one
    copies: fingerprints of the workspace's, which are all current: a student of each teacher
    extras: further files of a run, by name; asked only for runs that are written
    """
    created = completed = 0
    current: dict[tuple[str, str, str], set[str]] = {}  # experiment, method, seed -> fingerprints
    views: dict[str, tuple[View, dict[str, Any]]] = {}
    pending: dict[str, list[Record]] = {}
    with faults_as_one_line(root):
        file = database.sqlite_file(database.uri(root))
        if file is not None and file.exists():
            require_writable(file)
            database.check_integrity(file, PATIENCE)
        for record in records:
            if record.experiment not in views:
                view = View(root, record.experiment, PATIENCE)
                done = {run.data.tags.get(fields.FINGERPRINT): run for run in view.search() if complete(run)}
                views[record.experiment] = view, done
            view, done = views[record.experiment]
            slot = record.experiment, record.method, str(record.seed)
            if slot not in current or record.fingerprint in copies:
                current.setdefault(slot, set()).add(record.fingerprint)
            if record.fingerprint in done and _agrees(done[record.fingerprint], record):
                continue
            pending.setdefault(record.experiment, []).append(record)
        for experiment, missing in pending.items():
            for place in range(0, len(missing), AT_ONCE):
                new, old = _write(views[experiment][0], missing[place : place + AT_ONCE], extras)
                created, completed = created + new, completed + old
        for experiment, (view, _) in views.items():
            _tidy(
                view,
                {
                    (method, seed): fingerprints
                    for (of, method, seed), fingerprints in current.items()
                    if of == experiment
                },
            )
    return created, completed


def _write(
    view: View, records: Sequence[Record], extras: Callable[[Record], Mapping[str, bytes]] | None
) -> tuple[int, int]:
    """Create or complete these runs, side by side where MLflow runs on a server; how many of each."""
    files = [extras(record) if extras else {} for record in records]
    with view.locked():  # a tracker that is just finishing one of these runs comes before or after
        existing = {run.data.tags.get(fields.FINGERPRINT): run for run in reversed(view.search())}
        view.prepare_groups(records)

        def write(record: Record, more: Mapping[str, bytes]) -> tuple[int, int]:
            found = existing.get(record.fingerprint)
            start, _ = fields.times(record)
            if found is not None and not complete(found):
                view.finish(view.open(record, record.circumstances, start), record, more)
                return 0, 1
            if found is not None:
                if _agrees(found, record):
                    return 0, 0
                view.client.delete_run(found.info.run_id)
            view.add(record, start, more)
            return int(found is None), int(found is not None)

        with ThreadPoolExecutor(1 if view.file else AT_ONCE) as pool:
            counts = list(pool.map(write, records, files))
    return sum(new for new, _ in counts), sum(old for _, old in counts)


def _agrees(run: Any, record: Record) -> bool:
    """Whether the run's last numbers are the record's."""
    wanted = fields.metrics(record.history[-1]) if record.history else {}
    return bool(wanted.items() <= run.data.metrics.items())


def describe(root: Path, experiment: str, report: str, metrics: Mapping[str, Any] | None = None) -> None:
    """The text at the top of the experiment's page, from the report and its metrics.

    A text that is longer than MLflow allows ends after a whole paragraph.
    """
    with faults_as_one_line(root):
        view = View(root, experiment, PATIENCE)
        with view.locked():
            view.client.set_experiment_tag(
                view.experiment, experiment_page.NOTE, experiment_page.note(experiment, report, metrics or {})
            )


def experiment_id(root: Path, experiment: str) -> str:
    """MLflow's number of an experiment, which is created where it is missing."""
    with faults_as_one_line(root):
        return View(root, experiment, PATIENCE).experiment


def _tidy(view: View, current: Mapping[tuple[str, str], set[str]]) -> None:
    """Put every run below its method's group, mark it as current or not, end the groups, remove empty ones.

    current: (method, seed) -> fingerprints; a run without a record is left as it is: it may be in training
    """
    with view.locked():
        groups: dict[str, str] = {}
        for run in view.search():
            method = run.data.tags.get("method")
            fingerprints = current.get((method, run.data.tags.get("seed")))
            if method is not None and method != TEACHER:
                if method not in groups:
                    groups[method] = view.group(method, run.info.start_time).info.run_id
                view.mark(run, fields.PARENT, groups[method])
            if fingerprints is not None and complete(run):
                is_current = run.data.tags.get(fields.FINGERPRINT) in fingerprints
                view.mark(run, fields.CURRENT, "yes" if is_current else "no")
        runs = view.search()
        for parent in (run for run in runs if fields.GROUP in run.data.tags):
            children = [run for run in runs if run.data.tags.get(fields.PARENT) == parent.info.run_id]
            if children:
                view.end_group(parent, children)
            else:
                view.client.delete_run(parent.info.run_id)
        view.show_methods({run.data.tags["method"] for run in runs if "method" in run.data.tags})


@contextlib.contextmanager
def faults_as_one_line(root: Path) -> Iterator[None]:
    """Turn exceptions that MLflow's store raises outside its client into one line."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (sqlite3.Error, SQLAlchemyError, OSError, UnicodeError) as error:
        raise CdkdError(database.fault(root, error)) from None
