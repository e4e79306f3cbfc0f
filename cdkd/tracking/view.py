"""One experiment in MLflow, written so that writing it again changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cdkd.runs.record import Record
from cdkd.runs.specification import TEACHER
from cdkd.tracking import experiment_page, fields

# A telemetry switch of its own is honoured only as "true"; a dead server may not stall longer than seconds.
FORCED = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
NOTE = """**{experiment}**: one run for each method and seed, grouped by method; the teacher stands beside the groups.

* Errors are in percent on the test split. A run's `test_top1_error` is its **last** epoch's; `best.test_top1_error` is its best epoch's.
* Tables, figures and spreads over seeds: `reports/{experiment}/report.html`.
* To compare: the *Chart view* draws the means over seeds; or tick runs and press *Compare*.
* The link of `cdkd ui` opens the current runs, *Group by* the tag `method`; what was replaced since has the tag `current` = no.
* This view is a mirror: `cdkd track` rebuilds it from the records.
"""


def folder(root: Path) -> Path:
    return root.resolve() / ".cdkd" / "mlflow"


def uri(root: Path) -> str:
    """Where MLflow keeps its view: MLFLOW_TRACKING_URI, else a SQLite file in the project's folder, wherever that lies."""
    if address := os.environ.get("MLFLOW_TRACKING_URI"):
        return address
    from sqlalchemy.engine import URL

    path = str(folder(root) / "mlflow.db")
    plain = URL.create("sqlite", database=path).render_as_string(hide_password=False)
    if plain == f"sqlite:///{path}":
        return plain
    # The path holds #, %, ? or the like. With the driver named, MLflow does not create a folder called by the quoted path.
    return URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)


def database(address: str) -> Path | None:
    """The SQLite file of an address; None for any other store."""
    if not address.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url

    return Path(make_url(address).database or "mlflow.db").resolve()


def silence() -> None:
    """Before MLflow is imported: no telemetry, no long retries, no log lines of its own."""
    os.environ.update(FORCED)
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)


class View:
    """One experiment in MLflow. Whoever writes holds `locked()`; each method raises what MLflow raises."""

    def __init__(self, root: Path, experiment: str, patience: float) -> None:
        """patience: seconds to wait for a database that someone else has locked."""
        silence()
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        for logger, level in (
            ("mlflow", logging.CRITICAL + 1),
            ("alembic", logging.ERROR),
            ("urllib3.connectionpool", logging.ERROR),
        ):
            logging.getLogger(logger).setLevel(level)
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self.root, self.patience, self.uri = root, patience, uri(root)
        self.database = database(self.uri)
        with self.locked():  # two processes that create the tables at once would break each other
            if self.database is not None and not self.database.exists():
                _create(self.uri, self.database)
            self.client: Any = MlflowClient(tracking_uri=self.uri)
            self.experiment = self._experiment(experiment)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the view against the project's other processes, and find out quickly whether the database can be written.

        MLflow itself would wait 20 seconds for a locked one, in every call.
        """
        lock = Path(f"{self.database}.lock") if self.database else folder(self.root) / "lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self.database is not None and self.database.exists():
                with contextlib.closing(
                    sqlite3.connect(self.database, timeout=self.patience, isolation_level=None)
                ) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
            yield

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = (
                (folder(self.root) / "artifacts").as_uri() if self.database else None
            )  # else the server's own
            key: str = self.client.create_experiment(name, artifact_location=place)
            self.client.set_experiment_tag(key, experiment_page.NOTE, NOTE.format(experiment=name))
            return key
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def search(self, **wanted: str) -> list[Any]:
        """All runs with these tags (`__` for a dot), oldest first."""
        query = " and ".join(f"tags.`{key.replace('__', '.')}` = '{value}'" for key, value in wanted.items())
        runs: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                query,
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs += page
            if not (token := page.token):
                return runs

    def find(self, fingerprint: str) -> Any | None:
        return next(iter(self.search(cdkd__fingerprint=fingerprint)), None)

    def group(self, method: str, start: int | None = None) -> Any:
        """The parent of a method's runs. It has no tag `method`: means over a method's runs must not count it."""
        if found := self.search(cdkd__group=method):
            return found[0]
        tags = {fields.GROUP: method, "mlflow.source.name": "cdkd", "mlflow.source.type": "LOCAL"}
        return self.client.create_run(self.experiment, start_time=start, run_name=method, tags=tags)

    def tell(self, methods: Iterable[str]) -> None:
        """Have the page open on these methods and those it knows."""
        old = self.client.get_experiment(self.experiment).tags.get(experiment_page.VIEW)
        new = experiment_page.view({*methods, *experiment_page.methods(old)})
        if new != old:
            self.client.set_experiment_tag(self.experiment, experiment_page.VIEW, new)

    def settle(self, parent: Any, children: list[Any]) -> None:
        """End a group whose runs have all ended."""
        states = {run.info.status for run in children}
        status = "FINISHED" if all(map(complete, children)) else "KILLED"
        if states and "RUNNING" not in states and parent.info.status != status:
            self.client.set_terminated(
                parent.info.run_id, status, max(run.info.end_time or 0 for run in children) or None
            )

    def _running(self, run: Any) -> str:
        if run.info.status != "RUNNING":
            self.client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def open(self, run: fields.Named, circumstances: Mapping[str, Any], start: int | None = None) -> str:
        """The run, RUNNING: the one that exists, or a new one; others of its method and seed are current no more. A teacher's
        stands alone, any other below its method's."""
        tags = fields.tags(run, circumstances) | {fields.CURRENT: "yes"}
        if run.method != TEACHER:
            tags |= {
                fields.PARENT: self._running(
                    self.group(run.method, fields.apart(run.method, circumstances, start))
                )
            }
        found = self.find(run.fingerprint)
        if found is None:
            found = self.client.create_run(
                self.experiment, start_time=start, run_name=fields.name(run), tags=tags
            )
        key = self._running(found)
        for other in self.search(method=run.method, seed=str(run.seed)):
            self.mark(other, fields.CURRENT, "yes" if other.info.run_id == key else "no")
        params, files = fields.params(run)
        items = [self._param(name, value) for name, value in params.items()]
        for place in range(0, len(items), 90):
            self.client.log_batch(
                key, params=items[place : place + 90], tags=[self._tag(*tag) for tag in tags.items()]
            )
        for path, text in files.items():
            self.client.log_text(key, text, path)
        return key

    def mark(self, run: Any, tag: str, value: str) -> None:
        """Set a tag where it is another."""
        if run.data.tags.get(tag) != value:
            self.client.set_tag(run.info.run_id, tag, value)

    def log(self, key: str, rows: fields.Rows) -> None:
        """Log the epochs that the run lacks, each whole: `log_batch` is one transaction, and none is split over two."""
        there = {metric.step for metric in self.client.get_metric_history(key, "learning_rate")}
        batch: list[Any] = []
        for row, when in rows:
            if row["epoch"] in there:
                continue
            new = [
                self._metric(name, value, when, row["epoch"]) for name, value in fields.metrics(row).items()
            ]
            if len(batch) + len(new) > fields.MOST_METRICS:
                self.client.log_batch(key, metrics=batch)
                batch = []
            batch += new
            there.add(row["epoch"])
        if batch:
            self.client.log_batch(key, metrics=batch)

    def finish(self, key: str, record: Record, extras: Mapping[str, bytes]) -> None:
        """Everything of a finished run that is not there yet; its end comes last, so that an incomplete run shows as one."""
        now = round(1000 * time.time())
        self.log(key, fields.timed(record, now))
        run = self.client.get_run(key)
        have, end = (
            run.data.metrics,
            max(fields.times(record)[1] or now, run.info.start_time),
        )  # a short run may end before its view was begun
        step = record.history[-1]["epoch"] if record.history else 0
        final = {name: value for name, value in fields.final_metrics(record).items() if name not in have}
        tags = {fields.STATUS: record.status} | (
            {"cdkd.reason": record.reason[:4000]} if record.reason else {}
        )
        with tempfile.TemporaryDirectory() as place:
            for name, content in fields.files(record, extras).items():
                path = Path(place, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.client.log_artifacts(key, place)
        self.client.log_batch(
            key,
            [self._metric(name, value, end, step) for name, value in final.items()],
            tags=[self._tag(*tag) for tag in tags.items()],
        )
        self.client.set_terminated(key, "FINISHED" if record.status == "finished" else "FAILED", end)


def number(root: Path, experiment: str) -> str | None:
    """MLflow's number of an experiment in a database of this project, without importing MLflow; None where it cannot be said."""
    path = database(uri(root))
    if path is None or not path.exists():
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)
        ) as connection:
            found = connection.execute(
                "select experiment_id from experiments where name = ?", (experiment,)
            ).fetchone()
    except sqlite3.Error:
        return None
    return str(found[0]) if found else None


def _create(address: str, path: Path) -> None:
    """The tables, which take MLflow seconds: whole or absent, for a half-made database would never be accepted again."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.engine import make_url

    new = path.with_name(f"{path.name}.new")
    for left in path.parent.glob(f"{new.name}*"):
        left.unlink()
    store = SqlAlchemyStore(
        make_url(address).set(database=str(new)).render_as_string(hide_password=False),
        (path.parent / "artifacts").as_uri(),
    )
    store.engine.dispose()
    with contextlib.closing(sqlite3.connect(new)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # persists in the file; writers no longer block readers
    os.replace(new, path)


def complete(run: Any) -> bool:
    return run.info.status in ("FINISHED", "FAILED") and fields.STATUS in run.data.tags
