"""The methods that searches found: the studies in the workspace, and params with their best settings."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from cdkd.config.params import Params
from cdkd.config.paths import runs_folder
from cdkd.core.digest import digest
from cdkd.core.errors import BadRecord
from cdkd.data.prepared import Meta
from cdkd.runs import study_record
from cdkd.runs.code_digest import code_digest
from cdkd.runs.record import Record
from cdkd.runs.study_record import Result


def study_config(params: Params, name: str, data: Meta, teacher: Record) -> dict[str, Any]:
    """Everything that affects a study's trials, except their number. Other values begin a new study."""
    space = params.search[name]
    study = space.study
    chosen = {
        key: getattr(study, key) for key in ("sampler", "pruner", "warmup", "generation", "seeds", "seed")
    }
    return {
        "base": space.terms,
        "space": {key: parameter.model_dump() for key, parameter in study.space.items()},
        "order": list(study.space),
        **chosen,
        "epochs": space.trial_epochs,
        "training": params.training.model_dump(mode="json", exclude={"recipe"}),
        "network": params.student.network,
        **({"start": params.student.sha256} if params.student.weights is not None else {}),
        "data": data.digest,
        "teacher": [params.teacher.network, params.teacher.batchnorm, teacher.result["weights_sha256"]],
        "code": code_digest((params.student.network, params.teacher.network), tuple(sorted(space.losses))),
        "optuna": version("optuna"),
    }


def results(params: Params, data: Meta, teacher: Record) -> dict[str, Result]:
    """The workspace's studies that match today's params, data, teacher and code."""
    found: dict[str, Result] = {}
    for name in params.search:
        path = runs_folder(params) / "search" / f"{name}.json"
        if path.exists() and (result := study_record.read(path)).key == digest(
            study_config(params, name, data, teacher)
        ):
            found[name] = result
    return found


def with_tuned(params: Params, found: Mapping[str, Result]) -> Params:
    """The params with the methods that these studies found."""
    methods, tuned, teacher_of = dict(params.methods), dict(params.tuned), dict(params.teacher_of)
    for name, result in found.items():
        space, best = params.search[name], result.best
        if space.study.method is None or best is None:
            continue
        made = space.method_of(best.setting, trial=False)
        if made is None:
            path = runs_folder(params) / "search" / f"{name}.json"
            raise BadRecord(f"{path}: its best setting is outside the search space")
        methods[space.study.method], tuned[space.study.method] = made
        if space.study.base in teacher_of:
            teacher_of[space.study.method] = teacher_of[space.study.base]
    return params.model_copy(update={"methods": methods, "tuned": tuned, "teacher_of": teacher_of})
