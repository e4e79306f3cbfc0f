"""The pipeline's stages: prepare, teacher, distill, report. Each is what one item of dvc.yaml runs.

Torch and its friends are imported where something is to be computed: a stage that only restores finished runs needs
none of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdkd.data.prepared import Meta, read_meta
from cdkd.errors import BadCheckpoint, BadData, BadRecord, CdkdError
from cdkd.params import Params
from cdkd.plan import TEACHER, RunPlan, student_plan, student_plans, teacher_plan
from cdkd.progress import HELPER, Progress
from cdkd.record import Record
from cdkd.store import Store
from cdkd.tracking import settle

if TYPE_CHECKING:
    from cdkd.tracking import Apart


def data_folder(params: Params) -> Path:
    return params.root / "data" / params.experiment


def runs_folder(params: Params) -> Path:
    return params.root / "runs" / params.experiment


def report_folder(params: Params) -> Path:
    return params.root / "reports" / params.experiment


def prepare(params: Params) -> Meta:
    """Read the source, cut the splits, write them with their digests."""
    from cdkd.data.prepare import prepare as write

    with Progress("reading images") as progress:
        meta = write(data_folder(params), params.root, **params.data.model_dump(), progress=progress.count)
    counts = ", ".join(f"{count} {split}" for split, count in meta.counts.items())
    print(f"{params.experiment}: {counts}; {len(meta.classes)} classes; {'x'.join(map(str, meta.image))}; digest {meta.digest[:12]}")
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
    with _helpers(method, min(jobs(params), len(cohorts)) - 1):
        train_pending(params, store, cohorts, teacher_record)
    records = [_finished(store, plan) for plan in wanted]
    _replace(runs_folder(params) / method, store, records)
    return records


def plan(params: Params, export: Path | None) -> list[str]:
    """What is trained and what is pending, for a terminal; and the plan as a file, for `python -m cdkd.campaign` on another machine."""
    from cdkd import plan_file

    data, store = read_meta(data_folder(params)), Store(params.root)
    record = _any_teacher(params, data)
    if export is not None and record is None and params.teacher.weights is not None:
        raise BadData(f"{params.experiment}: the teacher's file is not measured yet; `cdkd teacher` does it, and then the plan can be exported")
    found = plan_file.make(params, data, record, store)
    weights = store.weights(found.teacher.fingerprint)
    lines = list(plan_file.summary(found, weights))
    if export is not None:
        found.write(export)
        lines.append(f"{export}: {len(found.students)} runs; the teacher is " + ("to be trained there" if record is None else f"finished: --teacher {weights}"))
    return lines


def bring_home(params: Params, folder: Path) -> list[str]:
    """Results of a campaign, put into the store; the next `dvc repro` finds them there and trains nothing.

    folder: the campaign's, or the `results` in it
    """
    from cdkd import pack

    folder = folder / "results" if (folder / "results").is_dir() else folder
    found, data, store = pack.read(folder), read_meta(data_folder(params)), Store(params.root)
    if found.experiment != params.experiment:
        raise BadRecord(f"{folder}: results of {found.experiment}; params.yaml is {params.experiment} (`cdkd use` changes it)")
    plan, held = teacher_plan(params, data), _any_teacher(params, data)
    brought = next((record for record in found.records if record.fingerprint == plan.fingerprint and record.status == "finished"), None)
    if brought is not None and held is not None and brought.result["weights_sha256"] != held.result["weights_sha256"]:
        places = f"{store.folder / plan.fingerprint} and {runs_folder(params) / TEACHER}"
        cure = f"to take theirs, remove {places}, import again, and run `dvc repro --force`"
        raise BadRecord(f"{folder}: its students learned from another teacher than this project's; {cure}")
    record = brought or held
    students = [run for seed in params.seeds for run in student_plans(params, data, record, seed)] if record else []
    return list(pack.into_store(found, {run.fingerprint: run for run in (plan, *students)}, store))


def report(params: Params) -> list[str]:
    """Tables and figures from the records; returns the tables as lines for a terminal."""
    from cdkd.report.render import render

    return render(params, expected(params), runs_folder(params), report_folder(params))


def tables(params: Params) -> str:
    """The tables as the last report printed them."""
    path = report_folder(params) / "tables.txt"
    if not path.exists():
        raise BadData(f"{path}: missing; `cdkd report` makes it")
    return path.read_text(encoding="utf-8")


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
        raise BadData(f"{params.experiment}: the teacher is not trained for these params; `cdkd teacher` trains it")
    return record


def _any_teacher(params: Params, data: Meta) -> Record | None:
    """The finished teacher, where there is one."""
    try:
        return trained_teacher(params, data)
    except BadData:
        return None


def _adopted(store: Store, folder: Path, plan: RunPlan) -> Record | None:
    """A run that lies in the workspace (pulled, say, and not trained here), put into the store as well."""
    from cdkd.record import read

    path = folder / f"seed-{plan.seed}.json"
    if not path.exists() or (record := read(path)).fingerprint != plan.fingerprint:
        return None
    weights = path.with_suffix(".safetensors")
    store.put(record, weights.read_bytes() if weights.exists() else None)
    return store.get(plan.fingerprint)


def _finished(store: Store, plan: RunPlan) -> Record:
    record = store.get(plan.fingerprint)
    if record is None:
        raise CdkdError(f"{plan.method} seed {plan.seed}: not in the store after training; another process removed it")
    if record.status != "finished":
        print(f"{plan.method} seed {plan.seed}: {record.status}: {record.reason}", flush=True)
    return record


def _replace(folder: Path, store: Store, records: list[Record]) -> None:
    """The folder holds these runs and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    for record in records:
        store.copy_out(record, folder)


def jobs(params: Params) -> int:
    """Processes that train students at once. Seeds share nothing, and one thread for each of two processes is faster than two
    threads for one. A function of the params and the machine, never of what is pending: threads decide the last bits."""
    return 1 if Path("/proc/driver/nvidia/gpus").exists() else min(_cores(), len(params.seeds))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _helpers(method: str, count: int) -> Iterator[None]:
    """So many further processes, which train what is free; they end with this one."""
    words = [sys.executable, "-m", "cdkd", "distill", method, "--helper"]
    helpers = [subprocess.Popen(words, env=os.environ | {HELPER: "1"}) for _ in range(count)]
    try:
        yield
        for helper in helpers:
            helper.wait()  # what it could not do was done here
    finally:
        for helper in helpers:
            helper.terminate()


def train_pending(params: Params, store: Store, cohorts: list[list[RunPlan]], teacher: Record | None = None, *, wait: bool = True) -> None:
    """Train what the store lacks, cohort by cohort, each under its lock. A cohort that another process trains comes last, or with
    `wait` false not at all."""
    waiting = [cohort for cohort in cohorts if _pending(store, cohort)]
    while waiting:
        for cohort in list(waiting):
            with _cohort_lock(store, cohort, wait=False) as held:
                if held:
                    _train(params, store, _pending(store, cohort), teacher)
                    waiting.remove(cohort)
        if not wait:
            break
        if waiting:
            with _cohort_lock(store, waiting[0], wait=True):
                _train(params, store, _pending(store, waiting.pop(0)), teacher)
    if cohorts:
        settle()


def _pending(store: Store, cohort: list[RunPlan]) -> list[RunPlan]:
    return [plan for plan in cohort if store.get(plan.fingerprint) is None]


@contextlib.contextmanager
def _cohort_lock(store: Store, cohort: list[RunPlan], *, wait: bool) -> Iterator[bool]:
    plan = cohort[0]
    what = TEACHER if plan.method == TEACHER else "students"
    with store.lock(f"{plan.experiment}-{what}-seed-{plan.seed}", wait=wait, say=lambda text: print(text, flush=True)) as held:
        yield held


def _train(params: Params, store: Store, plans: list[RunPlan], teacher: Record | None) -> None:
    if not plans:
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a busy neighbour must not stop both threads; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", str(_cores() if teacher is None else max(1, _cores() // jobs(params))))
    from cdkd.campaign import adopt_teacher, train_cohort

    if plans[0].config["training"] is None:
        adopt_teacher(params.root, store, plans[0], data_folder(params), str(params.teacher.weights), params.teacher.training.resolved)
    else:
        weights = store.weights(teacher.fingerprint) if teacher else None
        if weights is not None and not weights.exists():
            cure = f"`cdkd import` them with the results they belong to, or remove {weights.parent} and run `cdkd teacher` to train it here"
            raise BadCheckpoint(f"the teacher was trained elsewhere and its weights did not come along: {cure}")
        train_cohort(params.root, store, plans, data_folder(params), weights, cache=params.teacher.cache, watch=partial(_apart, params))


def _apart(params: Params, plans: Sequence[RunPlan], circumstances: Mapping[str, Any]) -> Apart:
    from cdkd.tracking import Apart

    return Apart(params.root, params.experiment, plans[0].seed, [(plan, circumstances) for plan in plans])


def track(params: Params) -> str:
    """The MLflow view of everything that this workspace and its store hold, completed from the records."""
    from cdkd.report.figures import run_pictures
    from cdkd.tracking import describe, rebuild

    records = list(_records(params))
    created, completed = rebuild(params.root, records, run_pictures)
    text = report_folder(params) / "report.md"
    if text.exists():
        describe(params.root, params.experiment, text.read_text(encoding="utf-8"))
    return f"MLflow: {len(records)} runs; {created} were missing and {completed} incomplete"


def ui(params: Params, port: int) -> None:
    from cdkd.ui import serve

    print(track(params), flush=True)
    serve(params.root, params.experiment, port)


def _records(params: Params) -> Iterator[Record]:
    """Every sound record once: of the workspace (any experiment) and of the store."""
    from cdkd.record import read

    seen: set[str] = set()
    for path in [*sorted((params.root / "runs").glob("*/*/seed-*.json")), *sorted(Store(params.root).folder.glob("[0-9a-f]*/record.json"))]:
        try:
            record = read(path)
        except CdkdError as fault:
            print(f"{fault}; left out", flush=True)
            continue
        if record.fingerprint not in seen:
            seen.add(record.fingerprint)
            yield record
