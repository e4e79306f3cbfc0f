"""Runs on other machines and in other projects: export a plan, import results, share runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cdkd.config.params import Params
from cdkd.config.paths import data_folder, run_folder
from cdkd.config.teachers import run_name, views
from cdkd.core.digest import digest
from cdkd.core.errors import BadCheckpoint, BadData, BadParams, BadRecord
from cdkd.core.own_code import KINDS
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import Meta, read_meta
from cdkd.pipeline.queries import any_teacher, full, todays_runs, todays_studies
from cdkd.pipeline.verify import code_today
from cdkd.runs import source_archive
from cdkd.runs.adopted import adopt
from cdkd.runs.record import Record
from cdkd.runs.specification import student_plans, teacher_plan
from cdkd.runs.store import Store
from cdkd.runs.tuned_methods import with_tuned
from cdkd.storage.files import write_atomically

if TYPE_CHECKING:
    from cdkd.cluster.results_bundle import Bundle, Kind

CODE = "code"  # the bundle's folder of source archives


def plan(params: Params, export: Path | None) -> list[str]:
    """The finished and the pending runs, as lines.

    export: the file for the plan of the cluster's worker; of several teachers each gets one, whose name ends
        in the teacher's
    """
    params = full(params)  # with the methods that searches found
    data, store = read_meta(data_folder(params)), Store(params.root)
    taught = [view for view in views(params) if view.methods]
    if len(taught) == 1:
        return _plan(taught[0], data, store, export)
    lines = []
    for view in taught:
        name = run_name(view, TEACHER, view.teacher.seed)
        end = name.replace(" ", "-")
        file = None if export is None else export.with_name(f"{export.stem}-{end}{export.suffix}")
        lines += [f"{name}:", *(f"  {line}" for line in _plan(view, data, store, file))]
    return lines


def _plan(params: Params, data: Meta, store: Store, export: Path | None) -> list[str]:
    """The same of one teacher; params: its view"""
    from cdkd.cluster import plan_file

    record = any_teacher(params, data)
    found = plan_file.make(params, data, record, store)
    if export is not None and record is None and found.teacher.config["training"] is None:
        raise BadData(
            f"{params.experiment}: the teacher is not trained, and not evaluated yet; "
            "`cdkd teacher` does it, and then the plan can be exported"
        )
    weights = store.weights(found.teacher.fingerprint)
    lines = list(plan_file.summary(found, weights))
    if export is not None:
        found.write(export)
        state = "to be trained there" if record is None else f"finished: --teacher {weights}"
        lines.append(f"{export}: {len(found.students)} runs; the teacher is {state}")
    return lines


def share(params: Params, folder: Path, *, records_alone: bool = False) -> list[str]:
    """Write the finished runs of params.yaml for `cdkd import`, with params.yaml and the user's own code.

    The bundle's records carry configuration, code digest and environment. Raises `BadData`, `BadParams`.
    records_alone: without weights, predictions and archives of code: small enough for a repository
    """
    from cdkd.cluster import results_bundle

    if folder.exists() and not (folder / results_bundle.RECORDS).is_file():
        raise BadParams(f"{folder} exists and is no bundle; expected a new folder")
    if not folder.absolute().parent.is_dir():
        raise BadParams(f"{folder.absolute().parent}: no such folder")
    store = Store(params.root)
    found = [
        (run_name(view, run.method, run.seed), store.get(run.fingerprint))
        for view in views(full(params))
        for run in todays_runs(view)
    ]
    records = list({record.fingerprint: record for _, record in found if record is not None}.values())
    if not records:
        raise BadData(
            f"{params.experiment}: no run of these params and this code is finished; `dvc repro` trains them"
        )
    kind: Kind = "none" if records_alone else "float32"
    results_bundle.write(folder, store, params.experiment, records, kind, records_alone=records_alone)
    for code in {record.code for record in records if not records_alone}:
        if (archive := source_archive.place(store.code, code)).is_file():
            _copy(archive, folder / CODE / archive.name)
    own = [path for kind in KINDS for path in sorted((params.root / kind).rglob("*.py"))]
    for path in (params.root / "params.yaml", *own):
        _copy(path, folder / path.relative_to(params.root))
    lines = [
        f"{folder}: {len(records)} runs of {params.experiment}, params.yaml, {len(own)} files of own code"
    ]
    environments = sorted({digest(record.circumstances.get("environment"))[:12] for record in records})
    lines.append(f"code {', '.join(sorted({record.code[:12] for record in records}))}")
    lines.append(f"environment {', '.join(environments)}")
    lines += [f"not finished: {name}" for name, record in found if record is None]
    return lines


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, path.read_bytes())


def import_results(params: Params, folder: Path, *, other_code: bool = False) -> list[str]:
    """Put results of a plan into the store. The next `dvc repro` finds them there and trains nothing.

    folder: the worker's, the `results` in it, or what `share` wrote
    other_code: take runs that other code than today's has trained, too, marked as not verified
    """
    from cdkd.cluster import results_bundle

    params = with_tuned(params, todays_studies(params))  # with all seeds that a rule may ask for
    folder = folder / "results" if (folder / "results").is_dir() else folder
    found, data, store = results_bundle.read(folder), read_meta(data_folder(params)), Store(params.root)
    if other_code:
        found = _under_todays_code(found)
    if found.experiment != params.experiment:
        raise BadRecord(
            f"{folder}: results of {found.experiment}; params.yaml is {params.experiment} (`cdkd use` "
            "changes it)"
        )
    each = [(view, list(_importable(view, data, store, found))) for view in views(params)]
    recipes = {run.fingerprint: view.teacher.training.resolved for view, runs in each for run in runs}
    # a method that a search found may be its base method, and then both have one run, under either name
    named = {(one.fingerprint, one.method) for one in found.records}
    plans = sorted(
        (run for _, runs in each for run in runs), key=lambda run: (run.fingerprint, run.method) in named
    )
    expected = {run.fingerprint: run for run in plans}

    def check(record: Record, weights: bytes) -> None:
        from cdkd.runs.measure import check_measured

        try:
            check_measured(record, weights, data_folder(params), recipes[record.fingerprint])
        except (BadRecord, BadCheckpoint) as fault:
            raise BadRecord(f"{folder}: {fault}; nothing was imported") from None

    lines = list(results_bundle.into_store(found, expected, store, check))
    if found.written_as:
        lines.append(
            f"{len(found.written_as)} of them were trained with other code than today's and are marked as "
            "not verified; `cdkd verify --adopt METHOD` trains one seed again"
        )
    for one in found.records:  # they were trained with today's code, or are marked, or were refused
        source_archive.keep(store.code, expected[one.fingerprint])
    return lines


def _under_todays_code(bundle: Bundle) -> Bundle:
    """The runs under today's code; those that other code has trained are marked as not verified."""
    records, written_as = [], {}
    for record in bundle.records:
        code = code_today(record)
        one = record if code in (None, record.code) else adopt(record, str(code))
        if one is not record:
            written_as[one.fingerprint] = record.fingerprint
        records.append(one)
    return replace(bundle, records=tuple(records), written_as=written_as)


def _importable(params: Params, data: Meta, store: Store, bundle: Bundle) -> Iterator[RunSpec]:
    """The runs of one teacher that may be imported; params: its view. Raises `BadRecord`."""
    spec, here = teacher_plan(params, data), any_teacher(params, data)
    theirs = (record for record in bundle.records if record.fingerprint == spec.fingerprint)
    brought = next((record for record in theirs if record.status == "finished"), None)
    if (
        brought is not None
        and here is not None
        and brought.result["weights_sha256"] != here.result["weights_sha256"]
    ):
        paths = f"{store.folder / spec.fingerprint} and {run_folder(params, TEACHER)}"
        hint = f"to take theirs, remove {paths}, import again, and run `dvc repro --force`"
        raise BadRecord(
            f"{bundle.folder}: its students learned from another teacher than this project's; {hint}"
        )
    yield spec
    if (record := brought or here) is not None:
        for seed in params.seeds:
            yield from student_plans(params, data, record, seed)
