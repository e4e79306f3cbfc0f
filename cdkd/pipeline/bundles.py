"""Runs that are trained on another machine: export the plan, import the results."""

from __future__ import annotations

from pathlib import Path

from cdkd.config.params import Params
from cdkd.config.paths import data_folder, runs_folder
from cdkd.core.errors import BadData, BadRecord
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import read_meta
from cdkd.pipeline.queries import any_teacher, full
from cdkd.runs.specification import student_plans, teacher_plan
from cdkd.runs.store import Store


def plan(params: Params, export: Path | None) -> list[str]:
    """What is trained and what is pending, as lines; export: where to write the plan for the cluster's
    worker.
    """
    from cdkd.cluster import plan_file

    params = full(params)  # with the methods that searches found
    data, store = read_meta(data_folder(params)), Store(params.root)
    record = any_teacher(params, data)
    if export is not None and record is None and params.teacher.weights is not None:
        raise BadData(
            f"{params.experiment}: the teacher's file is not evaluated yet; "
            "`cdkd teacher` does it, and then the plan can be exported"
        )
    found = plan_file.make(params, data, record, store)
    weights = store.weights(found.teacher.fingerprint)
    lines = list(plan_file.summary(found, weights))
    if export is not None:
        found.write(export)
        state = "to be trained there" if record is None else f"finished: --teacher {weights}"
        lines.append(f"{export}: {len(found.students)} runs; the teacher is {state}")
    return lines


def import_results(params: Params, folder: Path) -> list[str]:
    """Results of a plan, put into the store; the next `dvc repro` finds them there and trains nothing.

    folder: the worker's, or the `results` in it
    """
    from cdkd.cluster import results_bundle

    params = full(params)
    folder = folder / "results" if (folder / "results").is_dir() else folder
    found, data, store = results_bundle.read(folder), read_meta(data_folder(params)), Store(params.root)
    if found.experiment != params.experiment:
        raise BadRecord(
            f"{folder}: results of {found.experiment}; params.yaml is {params.experiment} (`cdkd use` "
            "changes it)"
        )
    spec, here = teacher_plan(params, data), any_teacher(params, data)
    theirs = (record for record in found.records if record.fingerprint == spec.fingerprint)
    brought = next((record for record in theirs if record.status == "finished"), None)
    if (
        brought is not None
        and here is not None
        and brought.result["weights_sha256"] != here.result["weights_sha256"]
    ):
        paths = f"{store.folder / spec.fingerprint} and {runs_folder(params) / TEACHER}"
        hint = f"to take theirs, remove {paths}, import again, and run `dvc repro --force`"
        raise BadRecord(f"{folder}: its students learned from another teacher than this project's; {hint}")
    record = brought or here
    students = (
        [run for seed in params.seeds for run in student_plans(params, data, record, seed)] if record else []
    )
    runs = {run.fingerprint: run for run in (spec, *students)}
    return list(results_bundle.into_store(found, runs, store))
