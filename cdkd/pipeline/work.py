"""`cdkd work`: one task of an experiment, brought to its end or to a checkpoint, by whatever starts it.

A task is the teachers, one seed's cohort of each teacher, a study, or the report. It asks no other task: what
it needs and does not find it makes, under a lease, and what another process has in training it waits for. So
a queue needs to know nothing, and tasks may be started in any order, twice, and by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdkd.cluster import slurm
from cdkd.cluster.stop import Stop
from cdkd.config import site
from cdkd.config.params import Params
from cdkd.config.paths import data_folder
from cdkd.config.teachers import run_name, views
from cdkd.core.digest import digest
from cdkd.core.errors import BadData, BadParams, BadRecord, CdkdError, Diverged
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import Meta, read_meta
from cdkd.pipeline import search_stage, stages
from cdkd.pipeline.queries import asked_seeds, full, restore
from cdkd.pipeline.scheduler import Mode, pending, train_pending
from cdkd.runs.record import Record
from cdkd.runs.specification import student_plans, teacher_plan
from cdkd.runs.store import Store, cohort_name
from cdkd.storage import sealed_json
from cdkd.tracking import server_address

STUDY, REPORT = "study:", "report"


def work(params: Params, task: str | None, stop: Stop) -> int:
    """Do one task of `params`; None: the teachers and every cohort. Returns the exit code.

    stop: listens to signals already

    0: done, also where a run diverged, which is a result; 75 or 143: stopped after a checkpoint, the same
    command continues; 1: a report with holes. Raises `CdkdError` where trying again does not help.
    """
    if task == REPORT:
        return _report(params)
    if task is not None and task.startswith(STUDY):
        stop.at_once()
        search_stage.run_study(params, task.removeprefix(STUDY))
        return 0
    _seeds(params, task)  # refuses an unknown task before anything else
    mode = Mode(stop, processes=1, tracked=server_address(params.root) is not None)
    store = Store(params.root)
    data = prepared_data(params, store)
    teachers = []
    for view in views(params):
        if (record := _teacher(view, store, data, mode)) is None:
            return stop.end()
        teachers.append(record)
    trained, found = None, views(full(params))
    while (seeds := _seeds(params, task)) != trained:
        for view, teacher in zip(found, teachers, strict=True):
            cohorts = [list(student_plans(view, data, teacher, seed)) for seed in seeds]
            if not _train(view, store, cohorts, teacher, mode):
                return stop.end()
        trained = seeds
    return 0


def _seeds(params: Params, task: str | None) -> Sequence[int]:
    """The seeds whose cohorts the task is; of a rule, without a task, those up to the next look."""
    if task in (None, TEACHER):
        return asked_seeds(params).seeds if task is None else ()
    last = len(params.seeds) - 1
    if not str(task).isascii() or not str(task).isdecimal() or int(str(task)) > last:
        expected = f"{TEACHER}, a number from 0 to {last} (of a seed), {STUDY}NAME or {REPORT}"
        raise BadParams(f"task {task!r}; expected {expected}")
    return (params.seeds[int(str(task))],)


def prepared_data(params: Params, store: Store) -> Meta:
    """The prepared data, which the first task prepares."""
    folder = data_folder(params)
    if not (folder / "data.json").exists():
        with store.lock(f"{params.experiment}-data", wait=True):
            if not (folder / "data.json").exists():
                return stages.prepare(params)
    return read_meta(folder)


def _teacher(params: Params, store: Store, data: Meta, mode: Mode) -> Record | None:
    """The trained teacher of a view; None where the task was stopped. Raises `Diverged`."""
    spec = teacher_plan(params, data)
    if not _train(params, store, [[spec]], None, mode):
        return None
    record = store.get(spec.fingerprint)
    if record is None or record.status != "finished":
        why = "it is not in the store" if record is None else record.reason
        name = run_name(params, TEACHER, spec.seed)
        raise Diverged(f"{params.experiment}: nobody can learn from {name}: {why}")
    return record


def _train(
    params: Params, store: Store, cohorts: list[list[RunSpec]], teacher: Record | None, mode: Mode
) -> bool:
    """Whether every run is in the store now."""
    for cohort in cohorts:
        restore(params, store, cohort)
    missing = [cohort for cohort in cohorts if pending(store, cohort)]
    for cohort in missing:
        _check_progress(params, store, cohort)
    train_pending(params, store, missing, teacher, mode=mode)
    return not any(pending(store, cohort) for cohort in missing)


def _check_progress(params: Params, store: Store, cohort: Sequence[RunSpec]) -> None:
    """Raises `CdkdError` where Slurm has restarted a task so often that gained nothing each time."""
    if not slurm.in_job():
        return
    limit = site.load(params.root).slurm.restarts
    path = store.folder.parent / "restarts" / f"{cohort_name(cohort[0])}.json"
    progress = digest([_progress(store, run) for run in cohort])
    before = _note(path) if slurm.restarts() else {}
    count = before["count"] + 1 if before.get("progress") == progress else 0
    if count > limit:
        raise CdkdError(
            f"{cohort_name(cohort[0])}: {count} restarts without a new checkpoint; it is not tried again. "
            "`slurm.time` in site.yaml may be too short for an epoch, or `slurm.notice`"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    sealed_json.write(path, {"format": 1, "progress": progress, "count": count})


def _note(path: Path) -> dict[str, Any]:
    try:
        return sealed_json.read(path, "a note of restarts", 1)
    except BadRecord:  # none yet, or a damaged one
        return {}


def _progress(store: Store, run: RunSpec) -> str:
    """Changes with each checkpoint."""
    if store.has(run.fingerprint):
        return "finished"
    try:
        return (store.checkpoint(run.fingerprint) / "LAST").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _report(params: Params) -> int:
    """Copy what is finished from the store to `runs/`, and write the report; 1 where runs are missing."""
    from cdkd.pipeline import reports

    params = full(params)
    if not stages.copy_finished(params):
        raise BadData(f"{params.experiment}: nothing is trained yet")
    print("\n".join(reports.report(params)))
    print(reports.track(params))
    missing = reports.missing(params)
    print("\n".join(missing), end="\n" * bool(missing))
    return int(bool(missing))
