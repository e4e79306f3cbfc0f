"""Queries: the runs, teacher and studies of an experiment, without training anything."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cdkd.config.params import Params
from cdkd.config.paths import data_folder, run_folder
from cdkd.config.seeds import SeedsRule
from cdkd.config.teachers import Key, key_of, views
from cdkd.core.errors import BadData, CdkdError
from cdkd.core.run_spec import RunSpec
from cdkd.data.prepared import Meta, read_meta
from cdkd.runs.predictions import predictions_file
from cdkd.runs.record import Record, read
from cdkd.runs.specification import student_plan, student_plans, teacher_plan
from cdkd.runs.store import Store
from cdkd.runs.study_record import Result
from cdkd.runs.tuned_methods import results, with_tuned

if TYPE_CHECKING:
    from cdkd.report.planned import Course


def full(params: Params) -> Params:
    """The params with the methods that searches found, and the seeds that a rule has asked for so far."""
    return asked_seeds(with_tuned(params, todays_studies(params)))


def asked_seeds(params: Params) -> Params:
    """The params with the seeds of the next look, or of the last one where that decided; all without a rule.

    It follows from the results alone: the same records give the same seeds, whatever else is stored.
    """
    if params.rule is None:
        return params
    seeds = looks_so_far(params, params.rule).seeds
    return params.model_copy(update={"seeds": tuple(range(seeds))})


def looks_so_far(params: Params, rule: SeedsRule) -> Course:
    """The looks at the planned comparisons that the store and the workspace have the results for."""
    from cdkd.report.planned import course

    try:
        data = read_meta(data_folder(params))
        teacher = trained_teacher(params, data)
    except CdkdError:
        return course(rule, {})
    store, errors = Store(params.root), dict[str, dict[int, float | None]]()
    for method in rule.methods:
        for seed in range(rule.at_most):
            spec = student_plan(params, data, teacher, method, seed)
            restore(params, store, [spec])
            record = store.get(spec.fingerprint)
            if record is None:
                break
            error = record.result["last"]["test_top1_error"] if record.status == "finished" else None
            errors.setdefault(method, {})[seed] = error
    return course(rule, errors)


def todays_studies(params: Params) -> dict[str, Result]:
    """The workspace's studies that match today's params; none without data or teacher."""
    found: dict[str, Result] = {}
    for view in views(params):
        if view.search and view.teacher.seed == params.teacher.seed:
            with contextlib.suppress(CdkdError):
                data = read_meta(data_folder(params))
                found |= results(view, data, trained_teacher(view, data))
    return found


def expected(params: Params) -> dict[tuple[str, Key], str]:
    """Today's fingerprint of every run by its `key_of`; empty where there is no data or no teacher yet."""
    return {
        key_of(view, spec.method, spec.seed): spec.fingerprint
        for view in views(params)
        for spec in todays_runs(view)
    }


def todays_runs(params: Params) -> list[RunSpec]:
    """Every run of today's params, data and code, each teacher before its students.

    None without data; of a teacher that is not trained yet, none.
    """
    found: list[RunSpec] = []
    for view in views(params):
        with contextlib.suppress(CdkdError):
            data = read_meta(data_folder(view))
            record = trained_teacher(view, data)
            found.append(teacher_plan(view, data))
            found += [spec for seed in view.seeds for spec in student_plans(view, data, record, seed)]
    return found


def trained_teacher(params: Params, data: Meta) -> Record:
    """The finished teacher of a view, from the store or the workspace. Raises `BadData` if there is none."""
    spec, store = teacher_plan(params, data), Store(params.root)
    restore(params, store, [spec])
    record = store.get(spec.fingerprint)
    if record is not None and record.status != "finished":
        raise BadData(
            f"{params.experiment}: the teacher {record.status}, so nobody can learn from it: {record.reason}"
        )
    if record is None:
        raise BadData(
            f"{params.experiment}: the teacher is not trained for these params; `cdkd teacher` trains it"
        )
    return record


def any_teacher(params: Params, data: Meta) -> Record | None:
    """The finished teacher, or None."""
    try:
        return trained_teacher(params, data)
    except BadData:
        return None


def restore(params: Params, store: Store, specs: list[RunSpec]) -> None:
    """Put runs into the store that are in the workspace alone, for example because DVC pulled them.

    A run is taken only if its record and weights are valid and its fingerprint is today's.
    """
    for spec in specs:
        path = run_folder(params, spec.method) / f"seed-{spec.seed}.json"
        if store.has(spec.fingerprint) or not path.exists():
            continue
        try:
            record = read(path)
        except CdkdError as fault:
            print(f"{fault}; not taken into the store", flush=True)
            continue
        if record.fingerprint == spec.fingerprint:
            weights = path.with_suffix(".safetensors")
            predictions = predictions_file(path)
            store.put(
                record,
                weights.read_bytes() if weights.exists() else None,
                predictions.read_bytes() if predictions.exists() else None,
            )
