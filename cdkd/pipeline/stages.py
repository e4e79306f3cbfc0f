"""The pipeline's stages: prepare, teacher, distill. Each is what one item of dvc.yaml runs.

Torch and other large libraries are imported where something is to be computed: a stage that only restores
finished runs needs none of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cdkd.config.params import Params, load
from cdkd.config.paths import data_folder, run_folder
from cdkd.config.seeds import SeedsRule
from cdkd.config.teachers import run_name, views, views_of
from cdkd.core.errors import BadParams, CdkdError
from cdkd.core.processes import helpers
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import Meta, read_meta
from cdkd.pipeline.queries import asked_seeds, full, looks_so_far, restore, todays_runs, trained_teacher
from cdkd.pipeline.scheduler import jobs, train_pending
from cdkd.runs.record import Record
from cdkd.runs.specification import student_plan, student_plans, teacher_plan
from cdkd.runs.store import Store
from cdkd.runs.teacher_quality import useless
from cdkd.storage.files import remove_folder
from cdkd.storage.progress import Progress

log = logging.getLogger(__name__)
DVC_STAGE = "DVC_STAGE"  # set by DVC: the stage that it runs, such as distill@kd


def method_of_stage(params: Params) -> str:
    """The method of the stage that DVC runs.

    dvc.yaml's commands contain no text of params.yaml, as a shell would interpret it.
    """
    _, _, method = os.environ.get(DVC_STAGE, "").partition("@")
    if not method:
        raise BadParams(f"which method? `cdkd distill METHOD`; expected one of {', '.join(params.methods)}")
    return method


def prepare(params: Params) -> Meta:
    """Read the source, make the splits, write them with their digests."""
    from cdkd.data.prepare import prepare as write

    with Progress("reading images") as progress:
        meta = write(data_folder(params), params.root, **params.data.model_dump(), progress=progress.count)
    counts = ", ".join(f"{count} {split}" for split, count in meta.counts.items())
    shape = "x".join(map(str, meta.image))
    print(f"{params.experiment}: {counts}; {len(meta.classes)} classes; {shape}; digest {meta.digest[:12]}")
    for note in meta.notes:
        print(f"{params.experiment}: {note}")
    if meta.overlap:
        print(f"{params.experiment}: {meta.overlap} test images are also training images, byte for byte")
    return meta


def teacher(params: Params) -> dict[str, Record]:
    """Train the teachers, or take the weights that params name; or restore them. The main one comes first.

    Returns them by their `run_name`.
    """
    store, folders, found = Store(params.root), dict[Path, list[Record]](), dict[str, Record]()
    for view in views(params):
        spec = teacher_plan(view, read_meta(data_folder(view)))
        restore(view, store, [spec])
        train_pending(view, store, [[spec]])
        record = _finished(store, spec)
        if not view.teacher.untrained:
            warn_if_useless(record)
        _still_todays(view, [spec])
        folders.setdefault(run_folder(view, TEACHER), []).append(record)
        found[run_name(view, TEACHER, record.seed)] = record
    for folder, records in folders.items():  # the main teacher's is around the others'
        replace_copies(folder, store, records)
    return found


def distill(params: Params, method: str, *, helper: bool = False) -> dict[str, Record]:
    """All seeds of a method, copied out of the store. If one is missing, all pending methods are trained.

    Returns them by their `run_name`. Where a rule adds seeds, all methods are trained up to each look, until
    the planned comparisons decide.
    helper: train what no other process trains, and leave the rest to the process that started this one
    """
    if method not in params.methods:
        params = full(params)
    params.method(method)  # an unknown name is refused before anything else
    return {
        run_name(view, method, record.seed): record
        for view in views_of(params, method)
        for record in _distilled(view, method, helper=helper)
    }


def _distilled(params: Params, method: str, *, helper: bool) -> list[Record]:
    """The same of one teacher; params: its view"""
    data = read_meta(data_folder(params))
    teacher_record = trained_teacher(params, data)
    if not helper and not params.teacher.untrained:
        warn_if_useless(teacher_record)
    store = Store(params.root)
    now = asked_seeds(params)
    wanted = _train_seeds(now, method, data, teacher_record, store, helper=helper)
    if helper:
        return []
    while (more := asked_seeds(params)).seeds != now.seeds:
        now = more
        wanted = _train_seeds(now, method, data, teacher_record, store)
    records = [_finished(store, spec) for spec in wanted]
    if method not in params.tuned:
        _still_todays(params, wanted)
    replace_copies(run_folder(params, method), store, records)
    return records


def _train_seeds(
    params: Params, method: str, data: Meta, teacher: Record, store: Store, *, helper: bool = False
) -> list[RunSpec]:
    """Train all methods of the seeds of which this method has no run yet; returns the method's runs.

    With a rule also of the seeds that a compared method has no run of.
    """
    wanted = [student_plan(params, data, teacher, method, seed) for seed in params.seeds]
    compared = () if params.rule is None else params.rule.methods
    needed = [student_plan(params, data, teacher, one, seed) for one in compared for seed in params.seeds]
    restore(params, store, [*wanted, *needed])
    missing = {spec.seed for spec in (*wanted, *needed) if store.get(spec.fingerprint) is None}
    pending = [seed for seed in params.seeds if seed in missing]
    cohorts = [list(student_plans(params, data, teacher, seed)) for seed in pending]
    for cohort in cohorts:
        restore(params, store, cohort)
    if helper:
        train_pending(params, store, cohorts, teacher, wait=False)
        return wanted
    with helpers(params.root, min(jobs(params), len(cohorts)) - 1, "distill", method):
        train_pending(params, store, cohorts, teacher)
    if pending and params.rule is not None:
        _print_looks(params, params.rule)
    return wanted


def _print_looks(params: Params, rule: SeedsRule) -> None:
    from cdkd.report.looks import sentences

    names = {name: name for name in params.methods}
    for sentence in sentences(rule, looks_so_far(params, rule), names):
        print(f"{params.experiment}: {sentence}", flush=True)


def warn_if_useless(teacher: Record) -> None:
    if teacher.status == "finished" and (what := useless(teacher)) is not None:
        log.warning("warning: %s; no student can learn from it", what)


def _finished(store: Store, spec: RunSpec) -> Record:
    record = store.get(spec.fingerprint)
    if record is None:
        raise CdkdError(
            f"{spec.method} seed {spec.seed}: not in the store after training; another process removed it"
        )
    if record.status != "finished":
        log.warning("%s seed %s: %s: %s", spec.method, spec.seed, record.status, record.reason)
    if (folder := store.checkpoint(spec.fingerprint)).exists():  # the process was killed before it removed it
        from cdkd.training import checkpoint

        checkpoint.clear(folder)
    return record


def _still_todays(params: Params, specs: Sequence[RunSpec]) -> None:
    """Raises `CdkdError` if params.yaml was edited during training: DVC would link new params to old runs."""
    path = params.root / "params.yaml"
    try:
        again = {
            spec.fingerprint
            for now in views(asked_seeds(load(path)))
            for spec in _todays(now, read_meta(data_folder(now)), specs)
        }
    except CdkdError:
        again = set()
    if changed := [spec for spec in specs if spec.fingerprint not in again]:
        names = ", ".join(f"{spec.method} seed {spec.seed}" for spec in changed)
        raise CdkdError(
            f"{path}: changed while {names} was trained; the trained runs are in the store, "
            "and the same command again trains the runs that params.yaml defines now"
        )


def _todays(now: Params, data: Meta, specs: Sequence[RunSpec]) -> list[RunSpec]:
    """These runs as a view of today's params.yaml has them."""
    if specs[0].is_teacher:
        return [teacher_plan(now, data)]
    record = trained_teacher(now, data)
    return [
        student_plan(now, data, record, spec.method, spec.seed)
        for spec in specs
        if spec.method in now.methods and spec.seed in now.seeds
    ]


def copy_finished(params: Params) -> int:
    """Replace all copies by the runs of params that are in the store; returns how many params has."""
    store, folders, count = Store(params.root), dict[Path, list[Record]](), 0
    for view in views(params):
        for run in todays_runs(view):
            found = folders.setdefault(run_folder(view, run.method), [])  # main teacher's before those in it
            found += [record] if (record := store.get(run.fingerprint)) is not None else []
            count += 1
    for folder, records in folders.items():
        replace_copies(folder, store, records)
    return count


def replace_copies(folder: Path, store: Store, records: list[Record]) -> None:
    """Copy these runs into the folder, replacing all others."""
    # under a lock, as another process may restore the same runs
    with store.lock(f"{folder.parent.name}-{folder.name}-copies", wait=True, log=lambda text: None):
        remove_folder(folder)
        for record in records:
            store.copy_out(record, folder)
