"""The store as pandas tables, for figures and statistics of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdkd.runs.predictions import RECORD
from cdkd.runs.record import Record, read
from cdkd.runs.store import Store

if TYPE_CHECKING:
    import pandas


def read_runs(project: str | Path = ".") -> pandas.DataFrame:
    """One row for each stored run, finished or diverged, whichever experiment and code it is of.

    fingerprint, experiment, method, seed, status, code (its digest), network, parameters, multiply_adds; of
    the last epoch the columns of `read_epochs`, and best_test_top1_error; commit, started, seconds,
    images_per_second, imported. Errors are in percent. A search's trials are judged on the validation split:
    their errors are in columns that begin with validation_.

    project: the folder that holds params.yaml
    Raises `BadRecord` for a damaged record.
    """
    import pandas

    return pandas.json_normalize([_run(record) for record in _records(project)], sep="_")


def read_epochs(project: str | Path = ".") -> pandas.DataFrame:
    """One row for each epoch of each stored run.

    fingerprint, experiment, method, seed, epoch, learning_rate, `weights_<term>`, `losses_<term>`,
    train_top1_error, test_top1_error, test_top5_error, test_loss, and what else its history has.

    project: the folder that holds params.yaml
    Raises `BadRecord` for a damaged record.
    """
    import pandas

    rows = [_name(record) | epoch for record in _records(project) for epoch in record.history]
    return pandas.json_normalize(rows, sep="_")


def _records(project: str | Path) -> Iterator[Record]:
    for path in sorted(Store(Path(project)).folder.glob(f"*/{RECORD}")):
        if not path.parent.name.startswith((".", "damaged-")):  # a draft, or a run set aside
            yield read(path)


def _name(record: Record) -> dict[str, Any]:
    return {
        "fingerprint": record.fingerprint,
        "experiment": record.experiment,
        "method": record.method,
        "seed": record.seed,
    }


def _run(record: Record) -> dict[str, Any]:
    result, around = record.result, record.circumstances
    last = result.get("last") or {}
    return (
        _name(record)
        | {"status": record.status, "code": record.code, "network": record.config.get("network")}
        | {name: result.get(name) for name in ("parameters", "multiply_adds")}
        | last
        | {"best_test_top1_error": (result.get("best") or {}).get("test_top1_error")}
        | {"commit": (around.get("git") or {}).get("commit")}
        | {name: around.get(name) for name in ("started", "seconds", "images_per_second")}
        | {"imported": bool(around.get("imported"))}
    )
