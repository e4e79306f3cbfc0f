"""Where the parts of an experiment lie, from the folder of its params.yaml."""

from __future__ import annotations

from pathlib import Path

from cdkd.params import Params


def data_folder(params: Params) -> Path:
    return params.root / "data" / params.experiment


def runs_folder(params: Params) -> Path:
    return params.root / "runs" / params.experiment


def report_folder(params: Params) -> Path:
    return params.root / "reports" / params.experiment
