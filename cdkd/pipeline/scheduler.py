"""Trains the runs that the store lacks: cohort by cohort, each under its lease, in one or more processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cdkd.config import site
from cdkd.config.params import Params
from cdkd.config.paths import data_folder
from cdkd.core.errors import BadCheckpoint
from cdkd.core.processes import cores, has_gpu, launched, share_cores
from cdkd.core.run_spec import RunSpec
from cdkd.runs.record import Record
from cdkd.runs.store import RunStore, cohort_name
from cdkd.storage.leases import Lease
from cdkd.tracking import wait_for_writers

if TYPE_CHECKING:
    from cdkd.tracking import SubprocessTracker


def never() -> bool:
    return False


@dataclass(frozen=True)
class Mode:
    """How a process trains.

    stop: asked after each epoch, and while it waits: end, with checkpoints of what is in training
    processes: that share this machine's cores; None: as `jobs` says
    tracked: whether MLflow shows the runs while they are trained
    """

    stop: Callable[[], bool] = never
    processes: int | None = None
    tracked: bool = True


DVC = Mode()  # of a stage that DVC runs


def jobs(params: Params) -> int:
    """Processes that train students at once.

    Seeds share nothing, and two processes with one thread each are faster than one with two. The number
    depends on the params and the machine, never on what is pending, because the number of threads affects the
    last bits. Where a rule adds seeds, so many train at once as it adds.
    """
    seeds = len(params.seeds) if params.rule is None else params.rule.step
    return _processes(params.training.ranks, seeds)


def search_workers(params: Params, study: str) -> int:
    """Processes that share a study on this machine: for each core or ranks, at most one for each trial."""
    return _processes(params.training.ranks, params.search[study].study.generation)


def _processes(ranks: int, most: int) -> int:
    """Processes of so many ranks each that share this machine; under torchrun it has started all."""
    return 1 if has_gpu() or launched() > 1 else min(max(1, cores() // ranks), most)


def train_pending(
    params: Params,
    store: RunStore,
    cohorts: list[list[RunSpec]],
    teacher: Record | None = None,
    *,
    wait: bool = True,
    mode: Mode = DVC,
) -> None:
    """Train the runs that the store lacks, cohort by cohort, each under its lease.

    A cohort that another process trains comes last, or with `wait` false not at all.
    """
    stop = mode.stop
    waiting = [cohort for cohort in cohorts if pending(store, cohort)]
    while waiting and not stop():
        for cohort in list(waiting):
            with _cohort_lease(store, cohort, wait=False) as held:
                if held and not stop():
                    _train(params, store, pending(store, cohort), teacher, mode)
                    waiting.remove(cohort)
        if not wait:
            break
        if waiting and not stop():
            with _cohort_lease(store, waiting[0], wait=True, stop=stop) as held:
                if held:
                    _train(params, store, pending(store, waiting.pop(0)), teacher, mode)
    if cohorts:
        wait_for_writers()


def pending(store: RunStore, cohort: list[RunSpec]) -> list[RunSpec]:
    return [plan for plan in cohort if store.get(plan.fingerprint) is None]


@contextlib.contextmanager
def _cohort_lease(
    store: RunStore, cohort: list[RunSpec], *, wait: bool, stop: Callable[[], bool] = never
) -> Iterator[Lease | None]:
    log = partial(print, flush=True)
    with store.lock(cohort_name(cohort[0]), wait=wait, log=log, stop=stop) as lease:
        yield lease


def _train(
    params: Params,
    store: RunStore,
    plans: list[RunSpec],
    teacher: Record | None,
    mode: Mode,
) -> None:
    if not plans:
        return
    recipe, place = plans[0].config["training"], site.load(params.root)
    ranks = 1 if recipe is None else recipe.get("ranks", 1)
    share_cores(ranks * (1 if teacher is None else mode.processes or jobs(params)))
    from cdkd.runs.execution import adopt_teacher, no_watcher, train_cohort

    if plans[0].config["training"] is None:
        file, recipe = params.teacher.weights, params.teacher.training.resolved
        with _hint_of_import("teacher", file):
            adopt_teacher(params.root, store, plans[0], data_folder(params), file, recipe)
    else:
        weights = store.weights(teacher.fingerprint) if teacher else None
        if weights is not None and not weights.exists():
            hint = (
                "`cdkd import` them with the results they belong to, "
                f"or remove {weights.parent} and run `cdkd teacher` to train it here"
            )
            raise BadCheckpoint(f"the teacher was trained elsewhere and its weights are missing: {hint}")
        with _hint_of_import("student", params.student.weights):
            several = teacher is not None and len(params.teacher.all_seeds) > 1
            train_cohort(
                params.root,
                store,
                plans,
                data_folder(params),
                weights,
                cache=params.teacher.cache,
                start=params.student.start(params.root),
                checkpoint_seconds=place.checkpoint,
                step_checkpoint_seconds=place.step_checkpoint,
                more={"teacher_seed": params.teacher.seed} if several else {},
                watch=partial(_track, params) if mode.tracked else no_watcher,
                stop=mode.stop,
            )


@contextlib.contextmanager
def _hint_of_import(kind: str, file: str | None) -> Iterator[None]:
    try:
        yield
    except BadCheckpoint as fault:
        if file is None or file not in str(fault) or "not the weights" not in str(fault):
            raise
        hint = f"`cdkd {kind} --from {file}` gives the cause, or converts them"
        raise BadCheckpoint(f"{fault}; {hint}") from None


def _track(params: Params, specs: Sequence[RunSpec], circumstances: Mapping[str, Any]) -> SubprocessTracker:
    from cdkd.tracking import SubprocessTracker

    runs = [(spec, circumstances) for spec in specs]
    return SubprocessTracker(params.root, params.experiment, specs[0].seed, runs)
