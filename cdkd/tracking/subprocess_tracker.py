"""Writes to MLflow from a separate process, so that training shares neither interpreter nor memory with it.

The training process writes one JSON line for each event into a pipe. `cdkd.pipeline.mlflow_writer` reads them
into a `Tracker` and ends with the pipe; where the trainer was killed, its runs are marked as killed.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cdkd.core.run_spec import RunSpec
from cdkd.runs.record import Record
from cdkd.tracking.tracker import PATIENCE, patience_for, status_for

log = logging.getLogger(__name__)


def wait_for_writers() -> None:
    """Wait until everything about finished cohorts is written."""
    while _closing:
        writer = _closing.pop()
        writer.wait(PATIENCE * (1 + writer.runs))  # it ends by itself once nothing was written for `PATIENCE`


class SubprocessTracker:
    """Sends the events of a cohort to the writer's process. Only `close` waits, and no method raises."""

    def __init__(
        self, root: Path, experiment: str, seed: int, runs: Sequence[tuple[RunSpec, Mapping[str, Any]]]
    ) -> None:
        """runs: each with its circumstances"""
        self._events: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._closed, self.runs = False, len(runs)
        words = [sys.executable, "-m", "cdkd.pipeline.mlflow_writer"]
        self._child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self._thread = threading.Thread(target=self._send_events, name="cdkd-tracking", daemon=True)
        self._thread.start()
        named = [[asdict(plan), dict(circumstances)] for plan, circumstances in runs]
        self._events.put({"root": str(root), "experiment": experiment, "seed": seed, "runs": named})

    def epoch(self, fingerprint: str, row: Mapping[str, Any], /) -> None:
        """A row of the history (it may carry images_per_second besides)."""
        self._events.put({"epoch": fingerprint, "row": dict(row)})

    def finish(self, record: Record, /) -> None:
        self._events.put({"finish": record.text()})

    def close(self, status: str = "KILLED") -> None:
        """End the runs. After a good end the writer continues until `wait_for_writers`."""
        if self._closed:
            return
        self._closed = True
        self._events.put({"close": status})
        self._events.put(None)
        if status == "FINISHED":
            _closing.append(self)
        else:
            self.wait(patience_for(status))

    def wait(self, patience: float) -> None:
        """Until everything is written, or so many seconds."""
        try:
            self._child.wait(patience + 5.0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status_for(kind))

    def _send_events(self) -> None:
        pipe = self._child.stdin
        if pipe is None:
            return
        try:
            while (event := self._events.get()) is not None:
                pipe.write(json.dumps(event) + "\n")
                pipe.flush()
            pipe.close()
        except OSError:
            if not self._closed:
                log.warning(
                    "the process that writes to MLflow has ended; training continues, `cdkd track` "
                    "completes the view later"
                )


_closing: list[SubprocessTracker] = []
