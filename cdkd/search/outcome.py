"""The results of a study's trials, read from its database and checked against the runs in the store."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from cdkd.config.params import Params
from cdkd.core.digest import digest
from cdkd.core.errors import BadStudy
from cdkd.data.prepared import Meta
from cdkd.runs.record import Record
from cdkd.runs.specification import variant_plan
from cdkd.runs.store import Store
from cdkd.runs.study_record import Result, Trial
from cdkd.runs.tuned_methods import study_config
from cdkd.search import database, propose
from cdkd.search.worker import ERROR, REASON, Worker

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def outcome(params: Params, name: str, data: Meta, teacher: Record) -> Result:
    """The study so far; raises `BadStudy` if a trial's value differs from that of its runs."""
    worker = worker_of(params, name, data, teacher, trials_at_once=1)
    space, config = params.search[name], study_config(params, name, data, teacher)
    finished = [trial for trial in worker.trials() if trial.state.is_finished()]
    for trial in finished:
        _check_against_runs(params, name, data, teacher, trial)
    importance = propose.importance(space, finished)
    trials = tuple(
        Trial(
            trial.number,
            dict(trial.params),
            STATES[trial.state],
            trial.value if trial.state == TrialState.COMPLETE else None,
            tuple(value for _, value in sorted(trial.intermediate_values.items())),
            trial.user_attrs.get(REASON, ""),
        )
        for trial in finished
    )
    return Result(
        experiment=params.experiment,
        name=name,
        key=digest(config),
        config=config,
        base=space.study.base,
        method=space.study.method,
        epochs=space.trial_epochs,
        seeds=space.study.seeds,
        planned=space.trials,
        trials=trials,
        importance={parameter: mean for parameter, (mean, _) in importance.items()},
        importance_std={parameter: std for parameter, (_, std) in importance.items()},
        evaluator=propose.EVALUATOR if importance else "",
    )


def worker_of(params: Params, name: str, data: Meta, teacher: Record, trials_at_once: int) -> Worker:
    storage, locks = database.open_storage(database.address(params.root, params.search[name].study.storage))
    key = digest(study_config(params, name, data, teacher))
    worker = Worker(params, name, data, teacher, storage, locks, key, trials_at_once)
    worker.open_study()
    return worker


def _check_against_runs(params: Params, name: str, data: Meta, teacher: Record, trial: FrozenTrial) -> None:
    """Runs that were trained on other machines are not in this store; such a trial is believed."""
    space, store = params.search[name], Store(params.root)
    made = space.method_of(trial.params, trial=True)
    if trial.state != TrialState.COMPLETE or made is None:
        return
    last = []
    for seed in space.study.seeds:
        record = store.get(variant_plan(params, data, teacher, name, *made, seed, "validation").fingerprint)
        if record is None:
            return
        last.append(record.result["last"][ERROR])
    by_runs = sum(last) / len(last)
    if trial.value != by_runs:
        raise BadStudy(
            f"{name}: trial {trial.number} is {trial.value} in the database, and {by_runs} by its runs: "
            "the database was edited or damaged"
        )
