"""Made from records: the report, comparisons with other experiments, and MLflow's pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cdkd import tracking
from cdkd.config.params import Params
from cdkd.config.paths import data_folder, report_folder, run_folder, runs_folder
from cdkd.config.teachers import key_of, views
from cdkd.core.errors import BadData, CdkdError
from cdkd.core.local_server import HOST
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import read_meta
from cdkd.pipeline.queries import asked_seeds, expected, full, todays_runs, todays_studies
from cdkd.pipeline.search_stage import show_study
from cdkd.runs.record import Record
from cdkd.runs.store import Store
from cdkd.runs.tuned_methods import with_tuned
from cdkd.tracking.server import PORT


def report(params: Params) -> list[str]:
    """Tables and figures from the records; returns the tables as lines for a terminal."""
    from cdkd.report.collect import collect
    from cdkd.report.explain import explain as differences
    from cdkd.report.render import render
    from cdkd.report.search_section import section, tuned_sentences
    from cdkd.report.summary import rows

    studies = todays_studies(params)
    params = asked_seeds(with_tuned(params, studies))
    found = collect(params, expected(params), runs_folder(params))
    numbers = rows(params, found)
    try:
        classes = read_meta(data_folder(params)).classes
    except CdkdError:
        classes = ()
    return render(
        params,
        found,
        report_folder(params),
        tuned=tuned_sentences(studies),
        search_section=section(params, studies, numbers),
        deviations={
            method: differences(params, method, numbers[method], numbers[TEACHER])
            for method in params.methods
        },
        class_names=classes,
        mlflow=_address(params),
    )


def _address(params: Params) -> str | None:
    """The experiment's page, as `cdkd ui` serves it."""
    key = tracking.stored_experiment_id(params.root, params.experiment)
    return None if key is None else f"http://{HOST}:{PORT}/#/experiments/{key}"


def explain(params: Params, method: str) -> list[str]:
    """Differences between a method and its published recipe, for a terminal."""
    from cdkd.report.collect import collect
    from cdkd.report.explain import explain as differences
    from cdkd.report.explain import lines
    from cdkd.report.summary import rows

    params = asked_seeds(params) if method in params.methods else full(params)
    params.method(method)
    numbers = rows(params, collect(params, expected(params), runs_folder(params)))
    return lines(params, method, differences(params, method, numbers[method], numbers[TEACHER]))


def compare(root: Path, names: list[str]) -> list[str]:
    """Several experiments in one table, from their records or committed reports; returns its lines."""
    from cdkd.report.compare import compare as write
    from cdkd.report.compare import folder, named
    from cdkd.report.comparison_table import Experiment

    found = [
        Experiment(params, expected(params), runs_folder(params), report_folder(params))
        for params in (full(params) for params in named(root, names))
    ]
    return write(found, folder(root, list(dict.fromkeys(names))))


def tables(params: Params) -> str:
    """The tables as the last report printed them."""
    path = report_folder(params) / "tables.txt"
    if not path.exists():
        raise BadData(f"{path}: missing; `dvc repro` makes it")
    return path.read_text(encoding="utf-8")


def track(params: Params) -> str:
    """Add all runs of this workspace and its store to MLflow, from their records."""
    from cdkd.report.figures import run_pictures
    from cdkd.tracking import describe, rebuild

    found = list(_records(params))
    records, copies = [record for record, _ in found], {record.fingerprint for record, copy in found if copy}
    created, completed = rebuild(params.root, records, run_pictures, copies)
    text = report_folder(params) / "report.md"
    if text.exists():
        files = sorted((report_folder(params) / "metrics").glob("*.json"))
        numbers = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
        describe(params.root, params.experiment, text.read_text(encoding="utf-8"), numbers)
    for study in todays_studies(params).values():
        show_study(params, study)
    return f"MLflow: {len(records)} runs; {created} were missing and {completed} incomplete"


def track_and_link(params: Params) -> str:
    """`track`, and the link where MLflow runs on a server."""
    from cdkd.tracking.server import link_on_server

    done, address = track(params), link_on_server(params.root, params.experiment)
    return f"{done}\nMLflow: {address}" if address else done


def ui(params: Params, port: int) -> None:
    from cdkd.tracking.server import serve

    print(track(params), flush=True)
    serve(params.root, params.experiment, port)


def _records(params: Params) -> Iterator[tuple[Record, bool]]:
    """Every valid record once: of the workspace (any experiment) and of the store; and which of the two."""
    from cdkd.runs.record import read

    seen: set[str] = set()
    copies = sorted((params.root / "runs").glob("*/**/seed-*.json"))
    for path in [*copies, *sorted(Store(params.root).folder.glob("[0-9a-f]*/record.json"))]:
        try:
            record = read(path)
        except CdkdError as fault:
            print(f"{fault}; left out", flush=True)
            continue
        if (
            record.fingerprint not in seen and record.config["data"].get("judged_on") != "validation"
        ):  # a trial shows in its study
            seen.add(record.fingerprint)
            yield record, path in copies


def missing(params: Params) -> list[str]:
    """A line for each run of params.yaml that the workspace does not have as it would be trained today."""
    from cdkd.report.collect import label
    from cdkd.runs.record import read

    lines = []
    for view in views(full(params)):
        for run in todays_runs(view):
            path, state = run_folder(view, run.method) / f"seed-{run.seed}.json", None
            try:
                if read(path).fingerprint != run.fingerprint:
                    state = "of other params or code than today's"
            except CdkdError:
                state = "missing or damaged"
            if state is not None:
                name = label(key_of(view, run.method, run.seed)[1])
                lines.append(f"{run.method} {name}: {state}; `dvc repro` makes it")
    return lines
