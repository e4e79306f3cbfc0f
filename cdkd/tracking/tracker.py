"""Shows one cohort in MLflow while it trains. Training only fills a queue; one thread writes to MLflow."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cdkd.core.errors import CdkdError
from cdkd.core.schedule import TEACHER
from cdkd.runs.record import Record
from cdkd.tracking import fields
from cdkd.tracking.database import shown_uri
from cdkd.tracking.view import View

PATIENCE = 30.0
LOCKED_PATIENCE = 0.5  # seconds for a database that another program has locked; the next flush tries again

log = logging.getLogger(__name__)


def status_for(kind: type[BaseException] | None) -> str:
    """MLflow's status for how the training ended."""
    return "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"


def patience_for(status: str, patience: float = PATIENCE) -> float:
    """Seconds to wait for MLflow at the end. A program that is being killed has little time."""
    return min(patience, 5.0) if status == "KILLED" else patience


class Tracker:
    """The runs of one cohort: several students and one seed.

    `epoch` and `finish` return at once. What cannot be written gives one warning, is tried again at each
    flush, and is dropped at the end: `rebuild` completes the view from the records. An epoch is logged once,
    however often a run is killed and resumed.
    """

    def __init__(
        self,
        root: Path,
        experiment: str,
        seed: int,
        runs: Sequence[tuple[fields.Named, Mapping[str, Any]]],
        every: float = 5.0,
        patience: float = PATIENCE,
        extras: Callable[[Record], Mapping[str, bytes]] = lambda record: {},
    ) -> None:
        """
        runs: each with its circumstances
        every: seconds between flushes; patience: seconds without progress after which `close` returns
        extras: further files of a finished run, by name
        """
        self.root, self.experiment, self.seed = root, experiment, seed
        self.every, self.patience, self.extras = every, patience, extras
        self.runs = {run.fingerprint: (run, circumstances) for run, circumstances in runs}
        self._events: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._rows: dict[str, fields.Rows] = {}
        self._records: list[Record] = []
        self._finished: set[str] = set()
        self._view: View | None = None
        self._keys: dict[str, str] = {}  # fingerprint -> MLflow's run
        self._closing: str | None = None
        self._warned = self._shown = False
        self._written = 0  # a count of writes: while it grows, the end is slow, and MLflow still answers
        self._owner, self._started = os.getpid(), round(1000 * time.time())
        self._thread = threading.Thread(target=self._work, name="cdkd-tracking", daemon=True)
        self._thread.start()

    def epoch(self, fingerprint: str, row: Mapping[str, Any]) -> None:
        """Queue a row of the history (it may carry images_per_second besides)."""
        self._put(("row", (fingerprint, dict(row), round(1000 * time.time()))))

    def finish(self, record: Record) -> None:
        """Queue the end of a run: what of its history is missing, its files, its status."""
        self._put(("record", record))

    def close(self, status: str = "KILLED") -> None:
        """Write what is queued, and end unfinished runs with this status.

        Returns where nothing was written for `patience`: a busy machine takes long for many runs.
        """
        if self._closing is not None or os.getpid() != self._owner:
            return
        self._closing = status
        self._events.put(None)
        patience = patience_for(status, self.patience)
        written = -1
        while self._thread.is_alive() and written != self._written:
            written = self._written
            self._thread.join(patience)
            if status == "KILLED":
                break
        if self._thread.is_alive():
            self._warn(f"{shown_uri(self.root)}: no answer for {patience:g} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status_for(kind))

    def _put(self, event: tuple[str, Any]) -> None:
        if self._closing is None and os.getpid() == self._owner:  # a forked child has no thread
            self._events.put(event)

    def _work(self) -> None:
        due = time.monotonic()  # at once, so that runs are shown from their beginning
        while True:
            last = not self._take(due)
            try:
                self._flush(last)
            except CdkdError as error:  # it names the place
                self._warn(str(error))
            except Exception as error:  # whatever MLflow or its store raises: training goes on
                text = next(iter(str(error).splitlines()), "")[:160] or type(error).__name__
                self._warn(f"{shown_uri(self.root)}: {text}")
            if last:
                return
            due = time.monotonic() + self.every

    def _take(self, due: float) -> bool:
        """Collect events until it is time to flush; False at the end."""
        while True:
            try:
                event = self._events.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                return True
            if event is None:
                return False
            kind, content = event
            if kind == "row":
                fingerprint, row, when = content
                self._rows.setdefault(fingerprint, []).append((row, when))
            else:
                self._records.append(content)

    def _flush(self, last: bool) -> None:
        """Write all queued events. Those that fail stay in the queue; none is written twice."""
        view = self._view = self._view or View(self.root, self.experiment, LOCKED_PATIENCE)
        with view.locked():
            for fingerprint, (run, circumstances) in self.runs.items():
                if fingerprint not in self._keys:
                    self._keys[fingerprint] = view.open(run, circumstances, self._started)
                    self._written += 1
            if not self._shown:
                view.show_methods(run.method for run, _ in self.runs.values())
                self._shown = True
            while self._rows:
                fingerprint = next(iter(self._rows))
                view.log(self._keys[fingerprint], self._rows[fingerprint])
                del self._rows[fingerprint]
                self._written += 1
            while self._records:
                record = self._records[0]
                view.finish(self._keys[record.fingerprint], record, self.extras(record))
                self._finished.add(record.fingerprint)
                del self._records[0]
                self._written += 1
            if last:
                self._end(view)

    def _end(self, view: View) -> None:
        for fingerprint in self.runs.keys() - self._finished:
            view.client.set_terminated(
                self._keys[fingerprint], "FAILED" if self._closing == "FAILED" else "KILLED"
            )
        for method in sorted({run.method for run, _ in self.runs.values()} - {TEACHER}):
            for parent in view.search(cdkd__group=method):
                view.end_group(parent, view.search(mlflow__parentRunId=parent.info.run_id))

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "MLflow cannot be written (%s); training continues, `cdkd track` completes the view later",
                text,
            )
