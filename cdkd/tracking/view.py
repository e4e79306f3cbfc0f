"""One experiment in MLflow, written so that writing it again changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdkd.core.errors import CdkdError
from cdkd.core.schedule import TEACHER
from cdkd.runs.record import Record
from cdkd.runs.store import Store
from cdkd.storage.files import require_writable
from cdkd.tracking import database, deployed, experiment_page, fields

MOST_PARAMS = 90  # of one log_batch: MLflow takes 100

NOTE = """**{experiment}**: one run for each method and seed, grouped by method, and the teacher.

* Errors are in percent on the test split.
* A run's `test_top1_error` is its **last** epoch's; `best.test_top1_error` is its best epoch's.
* Tables, figures and spreads over seeds: `reports/{experiment}/report.html`.
* To compare: the *Chart view* draws the means over seeds; or tick runs and press *Compare*.
* The link of `cdkd ui` opens the current runs, grouped by the tag `method`.
* A run that another has replaced has the tag `current` = no.
* This view is a copy: `cdkd track` completes it from the records.
"""


class View:
    """One experiment in MLflow. Write within `locked()`. Raises what SQLite raises, or `CdkdError`."""

    def __init__(self, root: Path, experiment: str, patience: float) -> None:
        """patience: seconds to wait for a database that another program has locked."""
        database.import_mlflow()
        from mlflow.entities import Metric, Param, RunTag

        self.metric, self.param, self.tag = Metric, Param, RunTag
        self.root, self.patience = root, patience
        self.file = database.sqlite_file(database.uri(root))
        with self.locked():  # two processes that create the tables at once would fail
            if self.file is not None and not self.file.exists():
                database.create_tables(database.uri(root), self.file)
            elif self.file is not None and self.file.parent == database.folder(root):
                database.relocate_artifacts(self.file, database.artifacts(root), patience)
            self.client = database.Client(root)
            self.experiment = self._experiment(experiment)
        self._groups: dict[
            str, str
        ] = {}  # method -> the parent of its runs, as `prepare_groups` found or created it

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude the project's other processes, and find out quickly whether the database can be written.

        MLflow itself would wait 20 seconds for a locked database, in every call.
        """
        lock = Path(f"{self.file}.lock") if self.file else database.folder(self.root) / "lock"
        require_writable(lock)
        if self.file is not None:
            require_writable(self.file)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self.file is not None and self.file.exists():
                with contextlib.closing(
                    sqlite3.connect(self.file, timeout=self.patience, isolation_level=None)
                ) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
            yield

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = database.artifacts(self.root).as_uri() if self.file else None  # None: the server's own
            try:
                key = str(self.client.create_experiment(name, artifact_location=place))
            except CdkdError:  # another host, which the lock does not exclude, may have just created it
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
            else:
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
        """The parent of a method's runs, without a tag `method`: means over the tag must not count it."""
        if found := self.search(cdkd__group=method):
            return found[0]
        tags = {fields.GROUP: method, "mlflow.source.name": "cdkd", "mlflow.source.type": "LOCAL"}
        return self.client.create_run(
            self.experiment, start_time=start, run_name=fields.group_name(method), tags=tags
        )

    def show_methods(self, methods: Iterable[str]) -> None:
        """Add these methods to those that the page shows."""
        old = self.client.get_experiment(self.experiment).tags.get(experiment_page.VIEW)
        new = experiment_page.view({*methods, *experiment_page.methods(old)})
        if new != old:
            self.client.set_experiment_tag(self.experiment, experiment_page.VIEW, new)

    def end_group(self, parent: Any, children: list[Any]) -> None:
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
        """The run, RUNNING: the one that exists, or a new one. It replaces others of its method and seed.

        A teacher's run stands alone, any other below the parent of its method.
        """
        tags = fields.tags(run, circumstances) | {fields.CURRENT: "yes"}
        if run.method != TEACHER:
            tags |= {
                fields.PARENT: self._running(
                    self.group(run.method, fields.group_start(run.method, circumstances, start))
                )
            }
        found = self.find(run.fingerprint)
        if found is None:
            found = self.client.create_run(
                self.experiment, start_time=start, run_name=fields.name(run, circumstances), tags=tags
            )
        key = self._running(found)
        for other in self.search(method=run.method, seed=str(run.seed)):
            self.mark(other, fields.CURRENT, "yes" if other.info.run_id == key else "no")
        params, files = fields.params(run)
        items = [self.param(name, value) for name, value in params.items()]
        for place in range(0, len(items), MOST_PARAMS):
            self.client.log_batch(
                key, params=items[place : place + MOST_PARAMS], tags=[self.tag(*tag) for tag in tags.items()]
            )
        for path, text in files.items():
            self.client.log_text(key, text, path)
        self._log_dataset(key, fields.dataset(run))
        return key

    def _log_dataset(self, key: str, dataset: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if dataset["digest"]:  # a second call for the same data set changes nothing
            context = InputTag("mlflow.data.context", "training and evaluation")
            used = [DatasetInput(Dataset(**dataset), [context])]
            try:
                self.client.log_inputs(key, datasets=used)
            except CdkdError:  # another run may have just created this data set: then it is there now
                self.client.log_inputs(key, datasets=used)

    def _log_model(self, key: str, record: Record, step: int) -> None:
        """The run's network, where its weights are in the store."""
        from mlflow.entities import LoggedModelOutput

        weights = Store(self.root).weights(record.fingerprint)
        if record.status != "finished" or not weights.exists():
            return
        network = record.config["network"]
        model = self.client.create_logged_model(
            self.experiment,
            name=f"{record.method}-seed-{record.seed}",
            source_run_id=key,
            model_type=network,
            tags={"method": record.method, "seed": str(record.seed)},
            params=fields.params(record)[0],
        )
        with tempfile.TemporaryDirectory() as place:
            text = deployed.description(record, model.model_id, key)
            Path(place, deployed.DESCRIPTION).write_text(text, encoding="utf-8")
            Path(place, deployed.WEIGHTS).symlink_to(weights.resolve())  # copied once, by MLflow
            self.client.log_model_artifacts(model.model_id, place)
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(key, [LoggedModelOutput(model.model_id, step)])
        self._log_errors_of(model.model_id, key, record)
        self.client.set_tag(key, fields.MODEL, model.model_id)

    def _log_errors_of(self, model: str, key: str, record: Record) -> None:
        """The last epoch's errors once more, as the model's on its data set: MLflow's page of models lists
        them. The run already has these points; with their own times they stay one point each.
        """
        data = fields.dataset(record)
        of = {"model_id": model, "dataset_name": data["name"], "dataset_digest": data["digest"] or None}
        for row, when in fields.timed(record, round(1000 * time.time()))[-1:]:
            errors = {name: value for name, value in fields.metrics(row).items() if name.startswith("test_")}
            times = {name: self._time_of(key, name, row["epoch"]) or when for name in errors}
            points = [
                self.metric(name, value, times[name], row["epoch"], run_id=key, **of)
                for name, value in errors.items()
            ]
            self.client.log_batch(key, metrics=points)

    def _time_of(self, key: str, name: str, epoch: int) -> int | None:
        """When the run's point was logged, which was during its training or afterwards."""
        times = [one.timestamp for one in self.client.get_metric_history(key, name) if one.step == epoch]
        return times[-1] if times else None

    def mark(self, run: Any, tag: str, value: str) -> None:
        """Set a tag, unless it has this value already."""
        if run.data.tags.get(tag) != value:
            self.client.set_tag(run.info.run_id, tag, value)

    def log(
        self,
        key: str,
        rows: fields.Rows,
        logged: set[int] | None = None,
        others: Sequence[Any] = (),
        params: Sequence[Any] = (),
        tags: Sequence[Any] = (),
    ) -> None:
        """Log the epochs that the run lacks, each in one transaction, which is what a `log_batch` is.

        logged: the epochs that it has; MLflow is asked where it is None
        others, params (at most 90) and tags: further metrics and so on, logged with the last epochs
        """
        if logged is None:
            logged = {metric.step for metric in self.client.get_metric_history(key, "learning_rate")}
        most = fields.MOST_METRICS - len(others) - len(params) - len(tags)
        batch: list[Any] = []
        for row, when in rows:
            if row["epoch"] in logged:
                continue
            new = [
                self.metric(name, value, when, row["epoch"]) for name, value in fields.metrics(row).items()
            ]
            if len(batch) + len(new) > most:
                self.client.log_batch(key, metrics=batch)
                batch = []
            batch += new
            logged.add(row["epoch"])
        if batch or others or params or tags:
            self.client.log_batch(key, metrics=[*batch, *others], params=params, tags=tags)

    def prepare_groups(self, records: Iterable[Record]) -> None:
        """Find or create the parents of these records' runs."""
        for record in records:
            if (method := record.method) != TEACHER and method not in self._groups:
                start = fields.group_start(method, record.circumstances, fields.times(record)[0])
                self._groups[method] = self.group(method, start).info.run_id

    def add(self, record: Record, start: int | None, extras: Mapping[str, bytes]) -> None:
        """A finished run that MLflow lacks, in few requests: a server may take 0.1 s for each.

        Its group is there (`prepare_groups`).
        Where this is interrupted, the run shows as RUNNING, and `open` and `finish` complete it.
        """
        tags = fields.tags(record, record.circumstances) | {fields.CURRENT: "yes"}
        if record.method != TEACHER:
            tags[fields.PARENT] = self._groups[record.method]
        run = self.client.create_run(
            self.experiment, start_time=start, run_name=fields.name(record, record.circumstances), tags=tags
        )
        key, now = run.info.run_id, round(1000 * time.time())
        end, step = self._end(record, run, now)
        params, texts = fields.params(record)
        items = [self.param(name, value) for name, value in params.items()]
        for place in range(MOST_PARAMS, len(items), MOST_PARAMS):
            self.client.log_batch(key, params=items[place : place + MOST_PARAMS])
        final = [self.metric(name, value, end, step) for name, value in fields.final_metrics(record).items()]
        rows, status = fields.timed(record, now), self._status(record)
        self.log(key, rows, set(), final, items[:MOST_PARAMS], status)
        self._log_dataset(key, fields.dataset(record))
        self._log_model(key, record, step)
        files = {name: text.encode() for name, text in texts.items()} | fields.files(record, extras)
        self._log_files(key, files)
        self._terminate(key, record, end)

    def _end(self, record: Record, run: Any, now: int) -> tuple[int, int]:
        """When the run ended (ms), and its last epoch. A short run may end before its view was begun."""
        step = record.history[-1]["epoch"] if record.history else 0
        return max(fields.times(record)[1] or now, run.info.start_time), step

    def _status(self, record: Record) -> list[Any]:
        tags = [self.tag(fields.STATUS, record.status)]
        return [*tags, self.tag("cdkd.reason", record.reason[:4000])] if record.reason else tags

    def _log_files(self, key: str, files: Mapping[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as place:
            for name, content in files.items():
                path = Path(place, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.client.log_artifacts(key, place)

    def _terminate(self, key: str, record: Record, end: int) -> None:
        self.client.set_terminated(key, "FINISHED" if record.status == "finished" else "FAILED", end)

    def finish(self, key: str, record: Record, extras: Mapping[str, bytes]) -> None:
        """Log what a finished run still lacks. Its end comes last, so that an incomplete run shows as one."""
        now = round(1000 * time.time())
        self.log(key, fields.timed(record, now))
        run = self.client.get_run(key)
        have, (end, step) = run.data.metrics, self._end(record, run, now)
        final = {name: value for name, value in fields.final_metrics(record).items() if name not in have}
        if fields.MODEL not in run.data.tags:
            self._log_model(key, record, step)
        self._log_files(key, fields.files(record, extras))
        self.client.log_batch(
            key,
            [self.metric(name, value, end, step) for name, value in final.items()],
            tags=self._status(record),
        )
        self._terminate(key, record, end)


def complete(run: Any) -> bool:
    return run.info.status in ("FINISHED", "FAILED") and fields.STATUS in run.data.tags
