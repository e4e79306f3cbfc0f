"""Searches in MLflow: an experiment of their own, a parent run for each study and a run for each trial."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdkd.runs.study_record import Result, Trial
from cdkd.runs.study_text import setting_text
from cdkd.tracking import experiment_page as page
from cdkd.tracking import fields
from cdkd.tracking.records import PATIENCE, faults_as_one_line
from cdkd.tracking.view import View

STUDY, TRIAL = "cdkd.study", "cdkd.trial"


def log_study(root: Path, study: Result, pictures: Mapping[str, bytes]) -> int:
    """Create the runs of a study that MLflow lacks; returns how many. A second call finds none.

    A pruned trial ends FINISHED, with the tag `cdkd.status` = pruned: nothing went wrong.
    pictures: of the study, by file name
    """
    with faults_as_one_line(root):
        view = View(root, f"{study.experiment}-search", PATIENCE)
        with view.locked():
            existing = view.search(cdkd__study=study.key)
            known = {run.data.tags.get(TRIAL) for run in existing}
            parent = next((run for run in existing if TRIAL not in run.data.tags), None) or _create(
                view, study, f"{study.name} ({study.key[:8]})", {}
            )
            for tag, text in ((page.VIEW, page.study_view()), (page.NOTE, page.STUDY_NOTE)):
                view.client.set_experiment_tag(view.experiment, tag, text)
            missing = [trial for trial in study.trials if str(trial.number) not in known]
            for trial in missing:
                _log_trial(view, study, trial, parent.info.run_id)
            if missing or parent.info.status == "RUNNING":
                _end_study(view, study, parent.info.run_id, pictures)
    return len(missing)


def _log_trial(view: View, study: Result, trial: Trial, parent: str) -> None:
    tags = {TRIAL: str(trial.number), fields.PARENT: parent, fields.STATUS: trial.state}
    if trial.reason:
        tags["cdkd.reason"] = trial.reason[:4000]
    key = _create(view, study, f"{study.name} · trial {trial.number}", tags).info.run_id
    numbers = {} if trial.value is None else {"value": trial.value}
    _log(view, key, trial.setting, {"validation_top1_error": trial.curve}, numbers)
    view.client.set_terminated(key, "FAILED" if trial.state == "failed" else "FINISHED")


def _end_study(view: View, study: Result, key: str, pictures: Mapping[str, bytes]) -> None:
    """Log what is known once all trials are, and end the study's run."""
    numbers = {f"importance.{name}": share for name, share in study.importance.items()}
    best = study.best
    if best is not None:
        view.client.set_tag(key, "best", f"trial {best.number}: {setting_text(best.setting)}")
        if best.value is not None:
            numbers["best"] = best.value
    _log(view, key, {}, {}, numbers)
    with tempfile.TemporaryDirectory() as place:
        study.write(Path(place, f"{study.name}.json"))
        for name, content in pictures.items():
            Path(place, name).write_bytes(content)
        view.client.log_artifacts(key, place)
    view.client.set_terminated(key, "FINISHED")


def _create(view: View, study: Result, name: str, tags: Mapping[str, str]) -> Any:
    common = {
        STUDY: study.key,
        "mlflow.source.name": "cdkd",
        "mlflow.source.type": "LOCAL",
        "base": study.base,
    }
    return view.client.create_run(view.experiment, run_name=name, tags=common | dict(tags))


def _log(
    view: View,
    key: str,
    params: Mapping[str, Any],
    curves: Mapping[str, tuple[float, ...]],
    numbers: Mapping[str, float],
) -> None:
    now = round(1000 * time.time())
    points = [
        view.metric(name, value, now, step)
        for name, curve in curves.items()
        for step, value in enumerate(curve)
    ]
    points += [view.metric(name, value, now, 0) for name, value in numbers.items()]
    for place in range(0, len(points), fields.MOST_METRICS):
        view.client.log_batch(key, metrics=points[place : place + fields.MOST_METRICS])
    view.client.log_batch(key, params=[view.param(name, str(value)) for name, value in params.items()])
