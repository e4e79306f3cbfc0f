"""The pipeline's stages: prepare, teacher, distill, report. Each is what one item of dvc.yaml runs.

Torch and its friends are imported where something is to be computed: a stage that only restores finished runs needs
none of them.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cdkd.config.faults import suggest
from cdkd.config.params import Params
from cdkd.config.paths import data_folder, run_folder, runs_folder
from cdkd.core.errors import BadData, BadParams, BadRecord, CdkdError
from cdkd.core.processes import share_cores
from cdkd.data.prepared import Meta, read_meta
from cdkd.pipeline.scheduler import helpers, jobs, search_workers, train_pending
from cdkd.runs.record import Record
from cdkd.runs.specification import TEACHER, RunPlan, student_plan, student_plans, teacher_plan
from cdkd.runs.store import Store
from cdkd.runs.study_record import Result
from cdkd.runs.tuned_methods import results, with_tuned
from cdkd.storage.progress import Progress

if TYPE_CHECKING:
    pass


def prepare(params: Params) -> Meta:
    """Read the source, cut the splits, write them with their digests."""
    from cdkd.data.prepare import prepare as write

    with Progress("reading images") as progress:
        meta = write(data_folder(params), params.root, **params.data.model_dump(), progress=progress.count)
    counts = ", ".join(f"{count} {split}" for split, count in meta.counts.items())
    print(
        f"{params.experiment}: {counts}; {len(meta.classes)} classes; {'x'.join(map(str, meta.image))}; digest {meta.digest[:12]}"
    )
    for note in meta.notes:
        print(f"{params.experiment}: {note}")
    if meta.overlap:
        print(f"{params.experiment}: {meta.overlap} test images are also training images, byte for byte")
    return meta


def teacher(params: Params) -> Record:
    """Train the teacher, or take the weights that params name; or restore it."""
    plan = teacher_plan(params, read_meta(data_folder(params)))
    store = Store(params.root)
    train_pending(params, store, [[plan]])
    record = _finished(store, plan)
    _replace(runs_folder(params) / TEACHER, store, [record])
    return record


def distill(params: Params, method: str, *, helper: bool = False) -> list[Record]:
    """All seeds of a method. What is in the store is copied out; else every pending method of the experiment is trained.

    helper: train what no other process trains, and leave the rest to the one that asked for help
    """
    if method not in params.methods:
        params = full(params)
    params.method(method)  # an unknown name is refused before anything else
    data = read_meta(data_folder(params))
    teacher_record = trained_teacher(params, data)
    store = Store(params.root)
    wanted = [student_plan(params, data, teacher_record, method, seed) for seed in params.seeds]
    pending = [plan.seed for plan in wanted if store.get(plan.fingerprint) is None]
    cohorts = [list(student_plans(params, data, teacher_record, seed)) for seed in pending]
    if helper:
        train_pending(params, store, cohorts, teacher_record, wait=False)
        return []
    with helpers(params.root, min(jobs(params), len(cohorts)) - 1, "distill", method):
        train_pending(params, store, cohorts, teacher_record)
    records = [_finished(store, plan) for plan in wanted]
    _replace(run_folder(params, method), store, records)
    return records


def plan(params: Params, export: Path | None) -> list[str]:
    """What is trained and what is pending, for a terminal; and the plan as a file, for `python -m cdkd.runs.cohort` on another machine."""
    from cdkd.cluster import plan_file

    data, store = read_meta(data_folder(params)), Store(params.root)
    record = _any_teacher(params, data)
    if export is not None and record is None and params.teacher.weights is not None:
        raise BadData(
            f"{params.experiment}: the teacher's file is not measured yet; `cdkd teacher` does it, and then the plan can be exported"
        )
    found = plan_file.make(params, data, record, store)
    weights = store.weights(found.teacher.fingerprint)
    lines = list(plan_file.summary(found, weights))
    if export is not None:
        found.write(export)
        lines.append(
            f"{export}: {len(found.students)} runs; the teacher is "
            + ("to be trained there" if record is None else f"finished: --teacher {weights}")
        )
    return lines


def bring_home(params: Params, folder: Path) -> list[str]:
    """Results of a campaign, put into the store; the next `dvc repro` finds them there and trains nothing.

    folder: the campaign's, or the `results` in it
    """
    from cdkd.cluster import results_bundle

    folder = folder / "results" if (folder / "results").is_dir() else folder
    found, data, store = results_bundle.read(folder), read_meta(data_folder(params)), Store(params.root)
    if found.experiment != params.experiment:
        raise BadRecord(
            f"{folder}: results of {found.experiment}; params.yaml is {params.experiment} (`cdkd use` changes it)"
        )
    plan, held = teacher_plan(params, data), _any_teacher(params, data)
    brought = next(
        (
            record
            for record in found.records
            if record.fingerprint == plan.fingerprint and record.status == "finished"
        ),
        None,
    )
    if (
        brought is not None
        and held is not None
        and brought.result["weights_sha256"] != held.result["weights_sha256"]
    ):
        places = f"{store.folder / plan.fingerprint} and {runs_folder(params) / TEACHER}"
        cure = f"to take theirs, remove {places}, import again, and run `dvc repro --force`"
        raise BadRecord(f"{folder}: its students learned from another teacher than this project's; {cure}")
    record = brought or held
    students = (
        [run for seed in params.seeds for run in student_plans(params, data, record, seed)] if record else []
    )
    return list(results_bundle.into_store(found, {run.fingerprint: run for run in (plan, *students)}, store))


def search(params: Params, only: str | None, *, helper: bool = False) -> list[Result]:
    """Run or continue studies, and train the methods that come out of them with all seeds; both lie in `runs/<experiment>/search`.

    only: one study; without it those that give a method. Others that are finished are put there as well.
    helper: be a worker of that study, and leave all else to the process that asked for help
    """
    if only is not None and only not in params.search:
        raise BadParams(
            f"no study {only!r} in params.yaml; expected one of {', '.join(params.search) or 'none'}{suggest(only, params.search)}"
        )
    folder = runs_folder(params) / "search"
    found: dict[str, Result] = {}
    if params.search:
        from cdkd.search.study import complete_study, join_study, stored_study

        data = read_meta(data_folder(params))
        record = trained_teacher(params, data)
        if helper:
            workers = search_workers(params, str(only))
            share_cores(workers)
            join_study(params, str(only), data, record, workers)
            return []
        for name, space in params.search.items():
            wanted = name == only or (only is None and space.study.method is not None)
            before = stored_study(params, name, data, record)
            run_workers = partial(_run_search_workers, params, name)
            result = complete_study(params, name, data, record, run_workers) if wanted else before
            if result is not None:
                found[name] = result
                if wanted and result != before:
                    show_study(params, result)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, result in found.items():
        result.write(folder / f"{name}.json")
    for method in with_tuned(params, found).tuned:
        distill(with_tuned(params, found), method)
    return list(found.values())


def _run_search_workers(params: Params, name: str) -> None:
    """Processes of their own that share a study: this one's number of threads is for what it trains itself."""
    with helpers(params.root, search_workers(params, name), "search", "--study", name):
        pass


def show_study(params: Params, study: Result) -> None:
    """The study in MLflow; where that fails it is said, and `cdkd track` makes it up."""
    from cdkd.report.search_section import pictures_of
    from cdkd.tracking import log_study

    try:
        log_study(params.root, study, {f"{what}.png": png for what, (_, png) in pictures_of(study).items()})
    except CdkdError as fault:
        print(f"{fault}; `cdkd track` completes the view", flush=True)


def full(params: Params) -> Params:
    """The params with the methods that searches gave."""
    return with_tuned(params, todays_studies(params))


def todays_studies(params: Params) -> dict[str, Result]:
    """The workspace's studies; none where nothing is known of their inputs."""
    try:
        data = read_meta(data_folder(params))
        return results(params, data, trained_teacher(params, data))
    except CdkdError:
        return {}


def expected(params: Params) -> dict[tuple[str, int], str]:
    """Today's fingerprint of every (method, seed); empty where there is no data or no teacher yet."""
    try:
        data = read_meta(data_folder(params))
        plan = teacher_plan(params, data)
        record = trained_teacher(params, data)
    except CdkdError:
        return {}
    plans = [plan, *(plan for seed in params.seeds for plan in student_plans(params, data, record, seed))]
    return {(plan.method, plan.seed): plan.fingerprint for plan in plans}


def trained_teacher(params: Params, data: Meta) -> Record:
    plan = teacher_plan(params, data)
    store = Store(params.root)
    record = store.get(plan.fingerprint) or _adopted(store, runs_folder(params) / TEACHER, plan)
    if record is None or record.status != "finished":
        raise BadData(
            f"{params.experiment}: the teacher is not trained for these params; `cdkd teacher` trains it"
        )
    return record


def _any_teacher(params: Params, data: Meta) -> Record | None:
    """The finished teacher, where there is one."""
    try:
        return trained_teacher(params, data)
    except BadData:
        return None


def _adopted(store: Store, folder: Path, plan: RunPlan) -> Record | None:
    """A run that lies in the workspace (pulled, say, and not trained here), put into the store as well."""
    from cdkd.runs.record import read

    path = folder / f"seed-{plan.seed}.json"
    if not path.exists() or (record := read(path)).fingerprint != plan.fingerprint:
        return None
    weights = path.with_suffix(".safetensors")
    store.put(record, weights.read_bytes() if weights.exists() else None)
    return store.get(plan.fingerprint)


def _finished(store: Store, plan: RunPlan) -> Record:
    record = store.get(plan.fingerprint)
    if record is None:
        raise CdkdError(
            f"{plan.method} seed {plan.seed}: not in the store after training; another process removed it"
        )
    if record.status != "finished":
        print(f"{plan.method} seed {plan.seed}: {record.status}: {record.reason}", flush=True)
    if (
        folder := store.checkpoint(plan.fingerprint)
    ).exists():  # killed between the store and the end of the clearing
        from cdkd.training import checkpoint

        checkpoint.clear(folder)
    return record


def _replace(folder: Path, store: Store, records: list[Record]) -> None:
    """The folder holds these runs and no others."""
    with store.lock(
        f"{folder.parent.name}-{folder.name}-copies", wait=True, say=lambda text: None
    ):  # another process may restore the same
        shutil.rmtree(folder, ignore_errors=True)
        for record in records:
            store.copy_out(record, folder)
