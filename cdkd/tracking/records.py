"""The whole view from the records, whatever part of it exists."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from cdkd.errors import CdkdError
from cdkd.record import Record
from cdkd.tracking import form
from cdkd.tracking.view import View, complete, uri

PATIENCE = 10.0  # seconds for a locked database: somebody waits for an answer, not a training
LONGEST_NOTE = 20_000  # characters of an experiment's tag


def rebuild(root: Path, records: Iterable[Record], extras: Callable[[Record], Mapping[str, bytes]] | None = None) -> tuple[int, int]:
    """Create the runs that MLflow lacks and complete the partial ones; returns how many of each. A second call finds (0, 0).

    Runs without a record are left as they are: one that shows as RUNNING may be in training, or may have been killed
    and go on when its command is given again, which reopens it.

    extras: further files of a run, by name; asked only for runs that are written.
    """
    created = completed = 0
    views: dict[str, tuple[View, set[str]]] = {}
    with readable(root):
        for record in records:
            if record.experiment not in views:
                view = View(root, record.experiment, PATIENCE)
                views[record.experiment] = view, {run.data.tags.get(form.FINGERPRINT, "") for run in view.search() if complete(run)}
            view, done = views[record.experiment]
            if record.fingerprint in done:
                continue
            more = extras(record) if extras else {}
            with view.locked():  # a tracker that is just finishing this run comes before or after
                found = view.find(record.fingerprint)
                if found is not None and complete(found):
                    continue
                start, _ = form.times(record)
                view.finish(view.open(record, record.circumstances, start), record, more)
            created, completed = created + (found is None), completed + (found is not None)
            done.add(record.fingerprint)
        for view, _ in views.values():
            _settle_groups(view)
    return created, completed


def describe(root: Path, experiment: str, markdown: str) -> None:
    """The text at the top of the experiment's page. What is longer than MLflow keeps ends after a whole paragraph."""
    if len(markdown) > LONGEST_NOTE:
        markdown = markdown[: LONGEST_NOTE - 100].rpartition("\n\n")[0] + f"\n\nCut here; whole in `reports/{experiment}`."
    with readable(root):
        view = View(root, experiment, PATIENCE)
        with view.locked():
            view.client.set_experiment_tag(view.experiment, "mlflow.note.content", markdown)


def experiment_id(root: Path, experiment: str) -> str:
    """MLflow's number of an experiment, which is created where it is missing."""
    with readable(root):
        return View(root, experiment, PATIENCE).experiment


def _settle_groups(view: View) -> None:
    with view.locked():
        runs = view.search()
        for parent in runs:
            if form.GROUP in parent.data.tags:
                view.settle(parent, [run for run in runs if run.data.tags.get(form.PARENT) == parent.info.run_id])


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
