"""Reads the runs of a committed report, where the records themselves are on another machine."""

from __future__ import annotations

import csv
from pathlib import Path

from cdkd.core.errors import BadRecord
from cdkd.report.collect import FoundRun
from cdkd.report.csv_files import FORMULA
from cdkd.runs.record import Record

COLUMNS = {"method", "seed", "state", "top1_error", "fingerprint"}  # reports of older versions have no others


def committed_runs(report: Path, experiment: str) -> dict[str, tuple[FoundRun, ...]] | None:
    """From runs.csv of the report's folder; None where there is none. Raises `BadRecord` for another file."""
    path = report / "runs.csv"
    if not path.exists():
        return None
    found: dict[str, tuple[FoundRun, ...]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not set(reader.fieldnames or ()) >= COLUMNS:
                raise BadRecord(
                    f"{path}: not a report's list of runs; expected the columns {', '.join(sorted(COLUMNS))}"
                )
            for line in reader:
                run = _run(line, experiment)
                found[run.method] = (*found.get(run.method, ()), run)
    except (OSError, ValueError, csv.Error) as fault:
        raise BadRecord(f"{path}: not a report's list of runs ({fault})") from None
    return found


def _run(line: dict[str, str], experiment: str) -> FoundRun:
    method, seed, state = line["method"], int(line["seed"]), line["state"]
    if method.startswith("'") and method[1:].startswith(FORMULA):
        method = method[1:]
    teacher = int(line["teacher"]) if line.get("teacher") else None
    if state != "ok":
        return FoundRun(method, seed, state, detail=line.get("detail") or "", teacher=teacher)
    last = {"test_top1_error": _percent(line["top1_error"])}
    if top5 := line.get("top5_error"):
        last["test_top5_error"] = _percent(top5)
    result = {"last": last}
    if best := line.get("best_epoch_top1_error"):
        result["best"] = {"test_top1_error": _percent(best)}
    record = Record(line["fingerprint"], experiment, method, seed, "finished", {}, [], result, {})
    return FoundRun(method, seed, "ok", record, teacher=teacher)


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise ValueError(f"{text} is not an error from 0 to 100 %")
    return value
