"""Where the parts of an experiment lie, from the folder of its params.yaml."""

from __future__ import annotations

from pathlib import Path

from cdkd.config.params import Params


def data_folder(params: Params) -> Path:
    return params.root / "data" / params.experiment


def runs_folder(params: Params) -> Path:
    return params.root / "runs" / params.experiment


def run_folder(params: Params, method: str) -> Path:
    """The folder of a method's runs. Those of a method that a search found are in the search's folder."""
    return runs_folder(params) / ("search" if method in params.tuned else "") / method


def report_folder(params: Params) -> Path:
    return params.root / "reports" / params.experiment
