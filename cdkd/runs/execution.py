"""From specifications to finished runs in the store."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from safetensors.torch import save as to_safetensors

from cdkd.core.company import Company
from cdkd.core.errors import BadCheckpoint, CdkdError
from cdkd.core.processes import launched
from cdkd.core.ranks import Ranks
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import Recipe
from cdkd.data.prepared import read_meta
from cdkd.models.weights import load_weights
from cdkd.runs import source_archive
from cdkd.runs.code_digest import code_digest
from cdkd.runs.predictions import KEY, predict, sha256_of
from cdkd.runs.record import Record, git_state
from cdkd.runs.store import RunStore
from cdkd.storage.progress import Progress
from cdkd.training.cohort import Cohort, build_cohort
from cdkd.training.environment import choose_device, environment
from cdkd.training.evaluation import Evaluation, Row, latency
from cdkd.training.result import result_of
from cdkd.training.run import Run
from cdkd.training.setup import CacheSettings, network, split

CHECKPOINT_SECONDS = 30.0
STEP_CHECKPOINT_SECONDS = 600.0

Prune = Callable[[RunSpec, Sequence[Row]], bool]  # of a run and its history so far


class Watcher(Protocol):
    """Follows a cohort while it trains; it must neither wait nor fail."""

    def epoch(self, fingerprint: str, row: Mapping[str, Any], /) -> None: ...
    def finish(self, record: Record, /) -> None: ...


# of specifications and their circumstances
Watch = Callable[[Sequence[RunSpec], Mapping[str, Any]], contextlib.AbstractContextManager[Watcher]]


class NoWatcher:
    """Follows nothing."""

    def epoch(self, fingerprint: str, row: Mapping[str, Any], /) -> None: ...
    def finish(self, record: Record, /) -> None: ...


@contextlib.contextmanager
def no_watcher(specs: Sequence[RunSpec], circumstances: Mapping[str, Any]) -> Iterator[Watcher]:
    yield NoWatcher()


def train_cohort(
    root: Path,
    store: RunStore,
    specs: Sequence[RunSpec],
    data_folder: Path,
    teacher_weights: Path | None,
    *,
    cache: float = 0.0,
    checkpoint_seconds: float | None = None,
    step_checkpoint_seconds: float | None = None,
    start: Path | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
    watch: Watch = no_watcher,
    stop: Callable[[], bool] = lambda: False,
    prune: Prune = lambda spec, history: False,
) -> None:
    """Train these runs as one cohort (see `build_cohort`) and put each into the store when it is finished.

    Of runs that are evaluated on the validation split only the record is kept.

    root: the project's folder
    cache: gigabytes of disk for the teacher's outputs
    checkpoint_seconds: least time between checkpoints at the ends of epochs; None: 30
    step_checkpoint_seconds: of those inside an epoch; None: 600
    start: weights that the students start from, where their specifications ask for them
    more: further circumstances of the runs, for their records
    stop: see `training.loop.train`
    prune: asked after every epoch whether to stop a run early
    """
    kept = _cache(specs[0], store, cache)
    with _ranks(specs, data_folder, teacher_weights, start, kept) as ranks:
        cohort = build_cohort(specs, data_folder, teacher_weights, store.checkpoint, kept, start, ranks)
        for spec in specs:
            source_archive.keep(store.code, spec)
        circumstances = {
            "environment": dict(cohort.environment),
            "git": git_state(root),
            "cohort": [spec.method for spec in specs],
            **more,
        }
        with watch(specs, circumstances) as watcher, Progress(_title(specs)) as progress:
            recorder = _Recorder(cohort, store, watcher, progress, circumstances, prune)
            for run in cohort.runs:
                if run.history:  # the process was killed after the last epoch, before the run was stored
                    recorder.settle(run)
            between = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
            inside = STEP_CHECKPOINT_SECONDS if step_checkpoint_seconds is None else step_checkpoint_seconds
            cohort.train(recorder.on_epoch, stop, between, inside)
    if failed := [run for run in cohort.runs if run.failed]:
        lines = [
            f"{cohort.specs[run.key].method} seed {specs[0].seed}: {_first_line(run.failed)}"
            for run in failed
        ]
        raise CdkdError(f"{'; '.join(lines)}; the same command tries again from the last checkpoint")


@contextlib.contextmanager
def _ranks(
    specs: Sequence[RunSpec],
    data_folder: Path,
    teacher_weights: Path | None,
    start: Path | None,
    cache: CacheSettings | None,
) -> Iterator[Ranks | None]:
    """The ranks of the cohort's recipe; None where it has one, and nothing is started."""
    count = specs[0].recipe.ranks
    if count == launched() == 1:
        yield None
        return
    from cdkd.training.launch import cohort_ranks, job_of

    with cohort_ranks(count, job_of(list(specs), data_folder, teacher_weights, start, cache)) as ranks:
        yield ranks


class _Recorder:
    """Counts a cohort's progress, and makes a record of each run as it ends."""

    def __init__(
        self,
        cohort: Cohort,
        store: RunStore,
        watcher: Watcher,
        progress: Progress,
        circumstances: Mapping[str, Any],
        prune: Prune,
    ) -> None:
        self.cohort, self.store, self.watcher, self.progress = cohort, store, watcher, progress
        self.circumstances, self.prune = circumstances, prune
        self.started, self.clock = datetime.now(UTC), time.monotonic()
        self.company = Company()
        self.trained = 0  # epochs trained by this process, over all runs
        self.epoch, self.seconds, self.rate = 0, 0.0, 0.0
        self.planned = sum(run.recipe.epochs - run.epoch for run in cohort.runs)

    def on_epoch(self, run: Run, row: Row | None) -> None:
        if run.epoch != self.epoch:
            self._measure(run)
        self.trained += 1
        if row is not None:
            self.watcher.epoch(run.key, row | {"images_per_second": self.rate})
        note = f", epoch {run.epoch}/{run.recipe.epochs}, {self.rate:,.0f} images/s"
        note += self.company.note(self.circumstances["environment"]["threads"])
        self.progress.count(self.trained, self.planned, note)
        self.settle(run)

    def settle(self, run: Run) -> None:
        """Store a run that has ended; give up one that the search prunes."""
        if not run.done and self.prune(self.cohort.specs[run.key], run.history):
            run.pruned = True
            self.planned -= run.recipe.epochs - run.epoch
            run.clear()
        elif run.done and not run.pruned:
            self._keep(run)

    def _measure(self, first: Run) -> None:
        """The time, and the images a second that all students together were trained on.

        Measured once an epoch, when the first of its runs ends it, and the same for all of them: measured at
        the end of each run, they would grow with its place in the cohort.
        """
        others = [run for run in self.cohort.runs if run is not first and not run.done and run.failed is None]
        ended = self.trained + 1 + sum(run.epoch == first.epoch - 1 for run in others)
        self.epoch, self.seconds = first.epoch, time.monotonic() - self.clock
        self.rate = ended * len(self.cohort.batches.split) / self.seconds

    def _keep(self, run: Run) -> None:
        spec = self.cohort.specs[run.key]
        weights = None if run.diverged else run.weights()
        result = {} if weights is None else self.cohort.result(run, weights)
        reason = None if run.diverged is None else str(run.diverged)
        circumstances = self._circumstances_of(run)
        kept = spec.judged_on == "test"  # a trial of a search keeps its record alone
        predictions = None
        if weights is not None and kept:
            predictions = predict(run.learner.alone(), self.cohort.evaluation).content()
            result |= {KEY: sha256_of(predictions)}
        record = record_of(spec, run.history, result, circumstances, reason)
        self.store.put(record, weights if kept else None, predictions)
        run.clear()
        self.watcher.finish(record)

    def _circumstances_of(self, run: Run) -> dict[str, Any]:
        exact = len(run.environments) == 1
        return {
            **self.circumstances,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 1),
            "latency_ms": round(latency(run.learner.alone(), self.cohort.meta.image), 4),
            "exact": exact,
            **({} if exact else {"environments": run.environments}),
        }


def record_of(
    spec: RunSpec,
    history: list[Row],
    result: dict[str, Any],
    circumstances: dict[str, Any],
    diverged: str | None = None,
) -> Record:
    """diverged: why; None of a run that is finished"""
    return Record(
        spec.fingerprint,
        spec.experiment,
        spec.method,
        spec.seed,
        "finished" if diverged is None else "diverged",
        dict(spec.config),
        history,
        result,
        circumstances,
        reason=diverged,
        code=spec.code,
    )


def adopt_teacher(
    root: Path, store: RunStore, spec: RunSpec, data_folder: Path, file: str | None, recipe: Recipe
) -> None:
    """Evaluate a teacher on the test split, and store it as a run without a history.

    file: its weights; None: those that it is initialised with
    """
    device = choose_device()
    meta = read_meta(data_folder)
    model = network(spec.config["network"], spec.config["data"], spec.seed, device)
    if file is not None:
        load_weights(model, root / file, spec.config["weights_sha256"])
    evaluation = Evaluation(split(data_folder, meta, device, "test"), recipe)
    measured = evaluation.row(model)
    if bad := [f"{key} is {value}" for key, value in measured.items() if not math.isfinite(value)]:
        raise BadCheckpoint(f"{file or 'initial weights'}: no usable teacher: {', '.join(bad)}")
    row = {"epoch": None} | measured
    weights = to_safetensors({name: value.contiguous().cpu() for name, value in model.state_dict().items()})
    result = result_of(weights, model, meta.image, [row], evaluation)
    predictions = predict(model, evaluation).content()
    result |= {KEY: sha256_of(predictions)}
    circumstances = {
        "environment": environment(device),
        "git": git_state(root),
        "cohort": [spec.method],
        **({} if file is None else {"file": file}),
    }
    store.put(record_of(spec, [], result, circumstances), weights, predictions)


def _cache(spec: RunSpec, store: RunStore, gigabytes: float) -> CacheSettings | None:
    if gigabytes <= 0 or spec.config["teacher"] is None:
        return None
    code = code_digest((spec.config["teacher"]["network"],), ())
    logging.getLogger("cdkd.training.teacher_cache").addFilter(_once)
    return CacheSettings(store.cache, gigabytes, code)


_said: set[str] = set()


def _once(line: logging.LogRecord) -> bool:
    """Whether this process has not logged such a line yet: each cohort finds the same disk full."""
    new = line.msg not in _said
    _said.add(line.msg)
    return new


def _title(specs: Sequence[RunSpec]) -> str:
    first, count = specs[0], len(specs)
    what = (
        first.method if first.is_teacher else f"seed {first.seed}, {count} student{'s' if count > 1 else ''}"
    )
    return f"{first.experiment}: {what}"


def _first_line(error: Exception | None) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
