"""Searches in MLflow: an experiment of their own, a parent run for each study and a run for each trial."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdkd.runs.study_record import Result
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
                tags = {
                    TRIAL: str(trial.number),
                    fields.PARENT: parent.info.run_id,
                    fields.STATUS: trial.state,
                }
                run = _create(
                    view,
                    study,
                    f"{study.name} · trial {trial.number}",
                    tags | ({"cdkd.reason": trial.reason[:4000]} if trial.reason else {}),
                )
                _log(
                    view,
                    run.info.run_id,
                    trial.setting,
                    {"validation_top1_error": trial.curve},
                    {} if trial.value is None else {"value": trial.value},
                )
                view.client.set_terminated(
                    run.info.run_id, "FAILED" if trial.state == "failed" else "FINISHED"
                )
            if missing or parent.info.status == "RUNNING":
                best = study.best
                numbers = {f"importance.{name}": share for name, share in study.importance.items()}
                _log(
                    view,
                    parent.info.run_id,
                    {},
                    {},
                    numbers | ({"best": best.value} if best is not None and best.value is not None else {}),
                )
                if best is not None:
                    view.client.set_tag(
                        parent.info.run_id, "best", f"trial {best.number}: {setting_text(best.setting)}"
                    )
                with tempfile.TemporaryDirectory() as place:
                    study.write(Path(place, f"{study.name}.json"))
                    for name, content in pictures.items():
                        Path(place, name).write_bytes(content)
                    view.client.log_artifacts(parent.info.run_id, place)
                view.client.set_terminated(parent.info.run_id, "FINISHED")
    return len(missing)


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
