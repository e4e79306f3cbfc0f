"""A study from params.yaml to its file: what is known already, the workers, and what they came to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cdkd.config.params import Params
from cdkd.core.errors import BadRecord, CdkdError
from cdkd.data.prepared import Meta
from cdkd.pipeline.scheduler import cores, helpers
from cdkd.runs import study_record
from cdkd.runs.record import Record
from cdkd.runs.study_record import Result
from cdkd.runs.tuned_methods import decisive
from cdkd.storage.files import digest

ADDRESS = "CDKD_SEARCH_STORAGE"  # a database's address, with a password that is not for params.yaml


def studied(params: Params, name: str, data: Meta, teacher: Record) -> Result:
    """The whole study, from what is kept or by training what it lacks."""
    known = kept(params, name, data, teacher)
    if known is not None and len(known.trials) >= _planned(params, name):
        return known
    from cdkd.search.outcome import outcome

    result = outcome(params, name, data, teacher)
    if len(result.trials) < _planned(params, name):
        with helpers(
            params.root, workers(params, name), "search", "--study", name
        ):  # their threads are theirs: this process has still to train
            pass
        result = outcome(params, name, data, teacher)
        if len(result.trials) < _planned(params, name) and params.search[name].study.minutes is None:
            raise CdkdError(
                f"{name}: its workers ended with {len(result.trials)} of {_planned(params, name)} trials; they say why, and the same command goes on"
            )
    result.write(_path(params, result.key))
    return result


def workers(params: Params, name: str) -> int:
    """Processes that a study is shared by on this machine: one a core, as far as a generation goes round."""
    return (
        1 if Path("/proc/driver/nvidia/gpus").exists() else min(cores(), params.search[name].study.generation)
    )


def _planned(params: Params, name: str) -> int:
    space = params.search[name]
    return len(space.grid()) if space.study.sampler == "grid" else space.study.trials


def kept(params: Params, name: str, data: Meta, teacher: Record) -> Result | None:
    """What is known of the study, be it whole or not."""
    path = _path(params, digest(decisive(params, name, data, teacher)))
    if not path.exists():
        return None
    try:
        study = params.search[name].study  # names decide no trial, and may be others by now
        return replace(
            study_record.read(path),
            experiment=params.experiment,
            name=name,
            base=study.base,
            method=study.method,
        )
    except BadRecord as fault:
        print(f"{fault}; read from the study's database again", flush=True)
        return None


def _path(params: Params, key: str) -> Path:
    return params.root / ".cdkd" / "studies" / f"{key}.json"
