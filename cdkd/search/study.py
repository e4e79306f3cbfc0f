"""A study from params.yaml to its file: what is known already, and what its workers still have to train."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cdkd.config.params import Params
from cdkd.config.paths import runs_folder
from cdkd.core.digest import digest
from cdkd.core.errors import BadRecord, CdkdError
from cdkd.data.prepared import Meta
from cdkd.runs import study_record
from cdkd.runs.record import Record
from cdkd.runs.study_record import Result
from cdkd.runs.tuned_methods import study_config

log = logging.getLogger(__name__)


def complete_study(
    params: Params, name: str, data: Meta, teacher: Record, run_workers: Callable[[], None]
) -> Result:
    """The whole study, from its file or by training the trials that it lacks.

    run_workers: starts the study's workers and waits for their end; they are processes of their own, because
        this one has its own number of threads, which affects the last bits of what it trains later
    """
    planned = params.search[name].trials
    known = stored_study(params, name, data, teacher)
    if known is not None and len(known.trials) >= planned:
        return known
    from cdkd.search.outcome import outcome

    result = outcome(params, name, data, teacher)
    if len(result.trials) < planned:
        run_workers()
        result = outcome(params, name, data, teacher)
        if len(result.trials) < planned and params.search[name].study.minutes is None:
            raise CdkdError(
                f"{name}: its workers ended after {len(result.trials)} of {planned} trials; see their "
                "messages; the same command continues"
            )
    result.write(_path(params, result.key))
    return result


def restore_study(params: Params, name: str, data: Meta, teacher: Record) -> None:
    """Keep the workspace's study if it is in the workspace alone, for example because DVC pulled it."""
    pulled = runs_folder(params) / "search" / f"{name}.json"
    key = digest(study_config(params, name, data, teacher))
    if _path(params, key).exists() or not pulled.exists():
        return
    try:
        result = study_record.read(pulled)
    except BadRecord as fault:
        log.warning("%s; not restored", fault)
        return
    if result.key == key:
        result.write(_path(params, key))


def join_study(params: Params, name: str, data: Meta, teacher: Record, workers: int) -> None:
    """Be one of so many workers of a study, until none of its trials is left."""
    from cdkd.search.outcome import worker_of

    trials_at_once = -(-params.search[name].study.generation // workers)
    worker_of(params, name, data, teacher, trials_at_once).work()


def stored_study(params: Params, name: str, data: Meta, teacher: Record) -> Result | None:
    """What the study's file holds, whether the study is complete or not."""
    path = _path(params, digest(study_config(params, name, data, teacher)))
    if not path.exists():
        return None
    try:
        study = params.search[name].study  # names affect no trial, and may have changed since
        return replace(
            study_record.read(path),
            experiment=params.experiment,
            name=name,
            base=study.base,
            method=study.method,
        )
    except BadRecord as fault:
        log.warning("%s; read again from the study's database", fault)
        return None


def _path(params: Params, key: str) -> Path:
    return params.root / ".cdkd" / "studies" / f"{key}.json"
