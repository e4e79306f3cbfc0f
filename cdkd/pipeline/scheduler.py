"""Trains the runs that the store lacks: cohort by cohort, each under its lock, in one or more processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cdkd.config.params import Params
from cdkd.config.paths import data_folder
from cdkd.core.errors import BadCheckpoint
from cdkd.core.processes import cores, has_gpu, share_cores
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.runs.record import Record
from cdkd.runs.store import Store
from cdkd.tracking import wait_for_writers

if TYPE_CHECKING:
    from cdkd.tracking import SubprocessTracker


def jobs(params: Params) -> int:
    """Processes that train students at once.

    Seeds share nothing, and two processes with one thread each are faster than one with two. The number
    depends on the params and the machine, never on what is pending, because the number of threads affects the
    last bits.
    """
    return 1 if has_gpu() else min(cores(), len(params.seeds))


def search_workers(params: Params, study: str) -> int:
    """Processes that share a study on this machine: one for each core, at most one for each trial."""
    return 1 if has_gpu() else min(cores(), params.search[study].study.generation)


def train_pending(
    params: Params,
    store: Store,
    cohorts: list[list[RunSpec]],
    teacher: Record | None = None,
    *,
    wait: bool = True,
) -> None:
    """Train the runs that the store lacks, cohort by cohort, each under its lock.

    A cohort that another process trains comes last, or with `wait` false not at all.
    """
    waiting = [cohort for cohort in cohorts if _pending(store, cohort)]
    while waiting:
        for cohort in list(waiting):
            with _cohort_lock(store, cohort, wait=False) as locked:
                if locked:
                    _train(params, store, _pending(store, cohort), teacher)
                    waiting.remove(cohort)
        if not wait:
            break
        if waiting:
            with _cohort_lock(store, waiting[0], wait=True):
                _train(params, store, _pending(store, waiting.pop(0)), teacher)
    if cohorts:
        wait_for_writers()


def _pending(store: Store, cohort: list[RunSpec]) -> list[RunSpec]:
    return [plan for plan in cohort if store.get(plan.fingerprint) is None]


@contextlib.contextmanager
def _cohort_lock(store: Store, cohort: list[RunSpec], *, wait: bool) -> Iterator[bool]:
    plan = cohort[0]
    what = TEACHER if plan.method == TEACHER else "students"
    with store.lock(
        f"{plan.experiment}-{what}-seed-{plan.seed}", wait=wait, log=partial(print, flush=True)
    ) as locked:
        yield locked


def _train(params: Params, store: Store, plans: list[RunSpec], teacher: Record | None) -> None:
    if not plans:
        return
    share_cores(1 if teacher is None else jobs(params))
    from cdkd.runs.execution import adopt_teacher, train_cohort

    if plans[0].config["training"] is None:
        file, recipe = str(params.teacher.weights), params.teacher.training.resolved
        try:
            adopt_teacher(params.root, store, plans[0], data_folder(params), file, recipe)
        except BadCheckpoint as fault:
            if "not the weights" not in str(fault):
                raise
            hint = f"`cdkd teacher --from {file}` gives the cause, or converts them"
            raise BadCheckpoint(f"{fault}; {hint}") from None
    else:
        weights = store.weights(teacher.fingerprint) if teacher else None
        if weights is not None and not weights.exists():
            hint = (
                "`cdkd import` them with the results they belong to, "
                f"or remove {weights.parent} and run `cdkd teacher` to train it here"
            )
            raise BadCheckpoint(f"the teacher was trained elsewhere and its weights are missing: {hint}")
        train_cohort(
            params.root,
            store,
            plans,
            data_folder(params),
            weights,
            cache=params.teacher.cache,
            watch=partial(_track, params),
        )


def _track(params: Params, specs: Sequence[RunSpec], circumstances: Mapping[str, Any]) -> SubprocessTracker:
    from cdkd.tracking import SubprocessTracker

    runs = [(spec, circumstances) for spec in specs]
    return SubprocessTracker(params.root, params.experiment, specs[0].seed, runs)
