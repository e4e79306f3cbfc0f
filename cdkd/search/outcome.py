"""A study's database, opened; and what its trials came to, read back and checked against the runs."""

from __future__ import annotations

import os

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL

from cdkd.config.params import Params
from cdkd.core.errors import BadStudy
from cdkd.data.prepared import Meta
from cdkd.runs.record import Record
from cdkd.runs.specification import variant_plan
from cdkd.runs.store import Store
from cdkd.runs.study_record import Result, Trial
from cdkd.runs.tuned_methods import decisive
from cdkd.search import database, propose
from cdkd.search.study import ADDRESS, workers
from cdkd.search.worker import ERROR, REASON, Worker
from cdkd.storage.files import digest

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def work(params: Params, name: str, data: Meta, teacher: Record) -> None:
    """Be one worker of the study until all its trials are over."""
    worker, url = _worker(params, name, data, teacher)
    with database.readable(url):
        worker.work()


def outcome(params: Params, name: str, data: Meta, teacher: Record) -> Result:
    """What the study came to; raises `BadStudy` where a trial's value is not what its runs say."""
    worker, url = _worker(params, name, data, teacher)
    space, body = params.search[name], decisive(params, name, data, teacher)
    with database.readable(url):
        trials = [trial for trial in worker.trials() if trial.state.is_finished()]
        for trial in trials:
            _check(params, name, data, teacher, trial)
        importance = propose.importance(space, trials)
    told = tuple(
        Trial(
            trial.number,
            dict(trial.params),
            STATES[trial.state],
            trial.value if trial.state == TrialState.COMPLETE else None,
            tuple(value for _, value in sorted(trial.intermediate_values.items())),
            trial.user_attrs.get(REASON, ""),
        )
        for trial in trials
    )
    study = space.study
    planned = propose.total(space)
    return Result(
        params.experiment,
        name,
        digest(body),
        body,
        study.base,
        study.method,
        space.short,
        study.seeds,
        planned,
        told,
        importance,
    )


def _worker(params: Params, name: str, data: Meta, teacher: Record) -> tuple[Worker, URL]:
    study = params.search[name].study
    url = database.address(params.root, os.environ.get(ADDRESS) or study.storage)
    storage, locks = database.opened(url, params.root)
    key = f"{params.experiment}-{name}-{digest(decisive(params, name, data, teacher))[:12]}"
    at_once = -(-study.generation // workers(params, name))
    with database.readable(url):
        return Worker(params, name, data, teacher, storage, locks, key, at_once), url


def _check(params: Params, name: str, data: Meta, teacher: Record, trial: FrozenTrial) -> None:
    """The database is trusted as far as the store bears it out; runs of other machines are not here."""
    space, store = params.search[name], Store(params.root)
    made = space.made(trial.params, short=True)
    if trial.state != TrialState.COMPLETE or made is None:
        return
    last = []
    for seed in space.study.seeds:
        record = store.get(variant_plan(params, data, teacher, name, *made, seed, "validation").fingerprint)
        if record is None:
            return
        last.append(record.result["last"][ERROR])
    borne_out = sum(last) / len(last)
    if trial.value != borne_out:
        raise BadStudy(
            f"{name}: trial {trial.number} is {trial.value} in the database, and {borne_out} by its runs: the database was edited or damaged"
        )
