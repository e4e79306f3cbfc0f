"""The run store: from a fingerprint to a finished run. Training writes it, everything else reads it.

A run is in `.cdkd/store/<fingerprint>/` as `record.json`, `weights.safetensors` and
`predictions.safetensors` (see `predictions`; older runs lack it), written atomically. A finished run whose
weights are on another machine has the empty file `weights.absent` instead: it counts, but cannot be a
teacher. A process holds a lease of the cohort that it trains, so that two processes on one store train
nothing twice, on whichever hosts they run.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cdkd.core.errors import BadCheckpoint, BadRecord
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.runs.predictions import KEY, PREDICTIONS, RECORD, predictions_file
from cdkd.runs.record import Record, read
from cdkd.storage.files import draft_folder, sha256, sync_names, write_atomically
from cdkd.storage.leases import NOT_EMPTY, SECONDS, Lease, Leases, confirm
from cdkd.storage.shared import SITE, project_folder, shared_folder

WEIGHTS, ABSENT = "weights.safetensors", "weights.absent"


class RunStore(Protocol):
    """What training needs of a store. `Store` keeps it in a folder; one in another place gives the same."""

    @property
    def code(self) -> Path:
        """The folder of the archives of code; see `source_archive`."""

    @property
    def cache(self) -> Path:
        """The folder of the teachers' outputs, which may be lost at any time."""

    def has(self, fingerprint: str) -> bool: ...
    def get(self, fingerprint: str) -> Record | None: ...

    def put(self, record: Record, weights: bytes | None, predictions: bytes | None = None) -> None:
        """Stores nothing where the fingerprint is there, or where a lease of this process was lost."""

    def weights(self, fingerprint: str) -> Path: ...
    def checkpoint(self, fingerprint: str) -> Path: ...

    def lock(
        self,
        name: str,
        *,
        wait: bool,
        log: Callable[[str], None] = print,
        stop: Callable[[], bool] = lambda: False,
    ) -> contextlib.AbstractContextManager[Lease | None]: ...


class Store:
    """A `RunStore` in a folder."""

    def __init__(self, root: Path) -> None:
        """root: the project's folder, the one that holds params.yaml."""
        shared, seconds = _place(root)
        self.folder = shared / "store"
        self.checkpoints = shared / "checkpoints"
        self.code = shared / "code"  # see `source_archive`
        self.cache = shared / "teacher"
        self.leases = Leases(shared / "leases", seconds)

    def has(self, fingerprint: str) -> bool:
        """Whether the store has a run under the fingerprint; the run is not read."""
        return (self.folder / fingerprint).exists()

    def get(self, fingerprint: str) -> Record | None:
        """The finished run, or None. A damaged one is logged and set aside, so that it is trained again."""
        place = self.folder / fingerprint
        if not place.exists():
            return None
        try:
            record = read(place / RECORD)
            if record.fingerprint != fingerprint:
                raise BadRecord(f"{place}: holds the record of {record.fingerprint}")
            weights = self.weights(fingerprint)
            elsewhere = not weights.exists() and (place / ABSENT).is_file()
            if record.status == "finished" and not elsewhere and not _fits(record, weights):
                raise BadCheckpoint(f"{weights}: missing or damaged: its digest is not the record's")
        except (BadRecord, BadCheckpoint) as fault:
            aside = Path(tempfile.mkdtemp(prefix=f"damaged-{fingerprint[:12]}-", dir=self.folder))
            os.replace(place, aside / "run")
            print(f"{fault}; set aside as {aside.name}; the run is trained again", flush=True)
            return None
        return record

    def put(self, record: Record, weights: bytes | None, predictions: bytes | None = None) -> None:
        """Store a finished run. If the fingerprint is there already, only files that it lacks are added.

        Raises `LeaseLost` where another process has taken over the work of this one.

        weights: None of a run that diverged, or whose weights are not at hand
        predictions: see `Predictions.content`; None of older runs, and where they are not at hand
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / record.fingerprint
        with draft_folder(self.folder, f".staging-{record.fingerprint[:12]}-") as staging:
            if weights is not None:
                write_atomically(staging / WEIGHTS, weights)
            elif record.status == "finished":
                write_atomically(staging / ABSENT, b"")
            if predictions is not None:
                write_atomically(staging / PREDICTIONS, predictions)
            write_atomically(staging / RECORD, record.text())
            confirm()
            if _renamed(staging, place):
                sync_names(self.folder)
            else:
                self._complete(place, staging)

    def replace_record(self, record: Record) -> None:
        """Replace the record of a stored run by one with other circumstances."""
        write_atomically(self.folder / record.fingerprint / RECORD, record.text())

    def _complete(self, place: Path, staging: Path) -> None:
        """Give a run of the store the files that it lacks, where they are those of its record."""
        lacks_weights = (place / ABSENT).is_file() and (staging / WEIGHTS).is_file()
        lacks_predictions = not (place / PREDICTIONS).is_file() and (staging / PREDICTIONS).is_file()
        if not (lacks_weights or lacks_predictions):
            return
        record = read(place / RECORD)
        if lacks_weights and _fits(record, staging / WEIGHTS):
            os.replace(staging / WEIGHTS, place / WEIGHTS)
            (place / ABSENT).unlink()
        if lacks_predictions and sha256(staging / PREDICTIONS) == record.result.get(KEY):
            os.replace(staging / PREDICTIONS, place / PREDICTIONS)

    def copy_out(self, record: Record, folder: Path) -> None:
        """The run as `<folder>/seed-<n>.json` and, where they are here, its weights and its predictions."""
        target = folder / f"seed-{record.seed}.json"
        if (weights := self.weights(record.fingerprint)).exists():
            write_atomically(target.with_suffix(".safetensors"), weights.read_bytes())
        if (predictions := self.predictions(record.fingerprint)).exists():
            write_atomically(predictions_file(target), predictions.read_bytes())
        write_atomically(target, record.text())

    def weights(self, fingerprint: str) -> Path:
        return self.folder / fingerprint / WEIGHTS

    def predictions(self, fingerprint: str) -> Path:
        return self.folder / fingerprint / PREDICTIONS

    def checkpoint(self, fingerprint: str) -> Path:
        return self.checkpoints / fingerprint

    def lock(
        self,
        name: str,
        *,
        wait: bool,
        log: Callable[[str], None] = print,
        stop: Callable[[], bool] = lambda: False,
    ) -> contextlib.AbstractContextManager[Lease | None]:
        """Hold the lease `name`: see `storage.leases.Leases.hold`."""
        return self.leases.hold(name, wait=wait, log=log, stop=stop)


def cohort_name(run: RunSpec) -> str:
    """Of the lease under which a run and those of its cohort are trained."""
    return f"{run.experiment}-{TEACHER if run.is_teacher else 'students'}-seed-{run.seed}"


def _place(root: Path) -> tuple[Path, float]:
    """The store's folder, and the seconds of a lease."""
    if not (project_folder(root) / SITE).is_file():  # a worker elsewhere lacks the library of its schema
        return shared_folder(root), SECONDS
    from cdkd.config import site

    return site.store_folder(root), site.load(root).lease


def _renamed(staging: Path, place: Path) -> bool:
    """Whether the place was free: a folder replaces no other that holds anything."""
    try:
        os.replace(staging, place)
    except OSError as error:
        if error.errno not in NOT_EMPTY:
            raise
        return False
    return True


def _fits(record: Record, weights: Path) -> bool:
    return weights.is_file() and sha256(weights) == record.result["weights_sha256"]
