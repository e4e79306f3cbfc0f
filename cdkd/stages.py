"""The pipeline's stages: prepare, teacher, distill, report. Each is what one item of dvc.yaml runs.

Torch and its friends are imported where something is to be computed: a stage that only restores finished runs needs
none of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cdkd.data.prepared import Meta, read_meta
from cdkd.errors import BadData, BadRecord, CdkdError
from cdkd.params import Params
from cdkd.pending import helpers, jobs, train_pending
from cdkd.places import data_folder, report_folder, runs_folder
from cdkd.plan import TEACHER, RunPlan, student_plan, student_plans, teacher_plan
from cdkd.progress import Progress
from cdkd.record import Record
from cdkd.store import Store

if TYPE_CHECKING:
    pass


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
    with helpers(min(jobs(params), len(cohorts)) - 1, "distill", method):
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
