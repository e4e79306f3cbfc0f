"""Where the parts of an experiment lie, from the folder of its params.yaml."""

from __future__ import annotations

from pathlib import Path

from cdkd.config.params import Params
from cdkd.core.schedule import TEACHER


def data_folder(params: Params) -> Path:
    return params.root / "data" / params.experiment


def runs_folder(params: Params) -> Path:
    return params.root / "runs" / params.experiment


def run_folder(params: Params, method: str) -> Path:
    """The folder of a method's runs. Those of a method that a search found are in the search's folder.

    Where the teacher has several seeds, each has a folder in it; params is then the view of one of them.
    """
    if method == TEACHER:
        return runs_folder(params) / TEACHER / (params.taught_by or "")
    each = f"teacher-{params.teacher.seed}" if len(params.teacher.all_seeds) > 1 else ""
    return runs_folder(params) / ("search" if method in params.tuned else "") / method / each


def report_folder(params: Params) -> Path:
    return params.root / "reports" / params.experiment
