"""The whole view from the records, whatever part of it exists."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cdkd.core.errors import CdkdError
from cdkd.runs.record import Record
from cdkd.runs.specification import TEACHER
from cdkd.tracking import experiment_page, fields
from cdkd.tracking.view import View, complete, uri

PATIENCE = 10.0  # seconds for a locked database: somebody waits for an answer, not a training


def rebuild(
    root: Path, records: Iterable[Record], extras: Callable[[Record], Mapping[str, bytes]] | None = None
) -> tuple[int, int]:
    """Create the runs that MLflow lacks and complete the partial ones; returns how many of each. A second call finds (0, 0).

    Runs without a record are left as they are: one that shows as RUNNING may be in training, or may have been killed
    and go on when its command is given again, which reopens it.

    records: the workspace's first; of several of one method and seed the first is the current one
    extras: further files of a run, by name; asked only for runs that are written.
    """
    created = completed = 0
    current: dict[tuple[str, str, str], str] = {}  # experiment, method, seed -> fingerprint
    views: dict[str, tuple[View, set[str]]] = {}
    with readable(root):
        for record in records:
            if record.experiment not in views:
                view = View(root, record.experiment, PATIENCE)
                views[record.experiment] = (
                    view,
                    {run.data.tags.get(fields.FINGERPRINT, "") for run in view.search() if complete(run)},
                )
            view, done = views[record.experiment]
            current.setdefault((record.experiment, record.method, str(record.seed)), record.fingerprint)
            if record.fingerprint in done:
                continue
            more = extras(record) if extras else {}
            with view.locked():  # a tracker that is just finishing this run comes before or after
                found = view.find(record.fingerprint)
                if found is not None and complete(found):
                    continue
                start, _ = fields.times(record)
                view.finish(view.open(record, record.circumstances, start), record, more)
            created, completed = created + (found is None), completed + (found is not None)
            done.add(record.fingerprint)
        for experiment, (view, _) in views.items():
            _tidy(
                view,
                {
                    (method, seed): fingerprint
                    for (of, method, seed), fingerprint in current.items()
                    if of == experiment
                },
            )
    return created, completed


def describe(root: Path, experiment: str, report: str, metrics: Mapping[str, Any] | None = None) -> None:
    """The text at the top of the experiment's page, from the report and its metrics.json. What is longer than MLflow keeps ends
    after a whole paragraph."""
    with readable(root):
        view = View(root, experiment, PATIENCE)
        with view.locked():
            view.client.set_experiment_tag(
                view.experiment, experiment_page.NOTE, experiment_page.note(experiment, report, metrics or {})
            )


def experiment_id(root: Path, experiment: str) -> str:
    """MLflow's number of an experiment, which is created where it is missing."""
    with readable(root):
        return View(root, experiment, PATIENCE).experiment


def _tidy(view: View, current: Mapping[tuple[str, str], str]) -> None:
    """Every run below its method's, marked as current or not; the groups ended, and those that are empty removed.

    current: (method, seed) -> fingerprint; a run without a record there is left as it is: it may be in training
    """
    with view.locked():
        groups: dict[str, str] = {}
        for run in view.search():
            method = run.data.tags.get("method")
            fingerprint = current.get((method, run.data.tags.get("seed")))
            if method is not None and method != TEACHER:
                if method not in groups:
                    groups[method] = view.group(method, run.info.start_time).info.run_id
                view.mark(run, fields.PARENT, groups[method])
            if fingerprint is not None and complete(run):
                view.mark(
                    run,
                    fields.CURRENT,
                    "yes" if run.data.tags.get(fields.FINGERPRINT) == fingerprint else "no",
                )
        runs = view.search()
        for parent in (run for run in runs if fields.GROUP in run.data.tags):
            children = [run for run in runs if run.data.tags.get(fields.PARENT) == parent.info.run_id]
            if children:
                view.settle(parent, children)
            else:
                view.client.delete_run(parent.info.run_id)
        view.tell({run.data.tags["method"] for run in runs if "method" in run.data.tags})


@contextlib.contextmanager
def readable(root: Path) -> Iterator[None]:
    """What MLflow and its store raise, as one readable line."""
    try:
        yield
    except Exception as error:
        if not known(error):
            raise
        raise CdkdError(f"MLflow at {uri(root)}: {reason(error)}") from None


def known(error: Exception) -> bool:
    """Whether a fault is the store's, rather than ours."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | OSError | sqlite3.Error)


def reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:160] or type(error).__name__
