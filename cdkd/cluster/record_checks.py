"""Checks of a record from another machine: names, types and bounds, and that its parts agree. No library.

Like those of `checks`, each raises `ValueError` in one line: place, value, what was expected.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cdkd.cluster import checks
from cdkd.runs.predictions import KEY
from cdkd.runs.record import Record

MAX_REASON, LARGEST = 2000, 1e12
YEARS = (2000, 2200)


def record(found: Record) -> None:
    """Check names, that the history has all rows, and that the result belongs to the history."""
    checks.name("method", found.method)
    checks.name("experiment", found.experiment)
    checks.integer("seed", found.seed, 0, checks.MAX_SEED)
    _circumstances(found.circumstances)
    checks.section("result", found.result)
    if not isinstance(found.history, list):
        raise ValueError("history; expected a list of rows")
    for epoch, row in enumerate(found.history):
        _row(f"history[{epoch}]", row)
        if row.get("epoch") != epoch:
            raise ValueError(f"history[{epoch}].epoch {checks.shown(row.get('epoch'))}; expected {epoch}")
    if found.status == "finished":
        _result(found)
    elif found.result:
        raise ValueError("a result of a run that diverged; expected none")
    else:
        checks.text("reason", found.reason, MAX_REASON)


def _result(found: Record) -> None:
    result = found.result
    missing = [
        key for key in ("weights_sha256", "parameters", "multiply_adds", "last", "best") if key not in result
    ]
    if missing:
        raise ValueError(f"result without {', '.join(missing)}")
    for key in ("weights_sha256", KEY):
        if key in result:
            checks.sha256(f"result.{key}", result[key])
    for key in ("parameters", "multiply_adds"):
        checks.integer(f"result.{key}", result[key], 1, 10**18)
    for key in ("last", "best"):
        _row(f"result.{key}", result[key])
        checks.number(f"result.{key}.test_top1_error", result[key].get("test_top1_error"), 0, 100)
    if found.history:
        lowest = min(row["test_top1_error"] for row in found.history)
        if result["last"] != found.history[-1]:
            raise ValueError("result.last; expected the last row of its history")
        if result["best"] not in found.history or result["best"]["test_top1_error"] != lowest:
            raise ValueError("result.best; expected the row of its history with the lowest test_top1_error")


def _row(place: str, row: Any) -> None:
    checks.section(place, row)
    for key, value in row.items():
        if key.endswith("_error"):
            checks.number(f"{place}.{key}", value, 0, 100)
        elif key in ("test_loss", "learning_rate"):
            checks.number(f"{place}.{key}", value)


def _circumstances(found: Any) -> None:
    """What the report, MLflow and `verify` read, and that all the rest is short and plain."""
    checks.section("circumstances", found)
    _plain("circumstances", found)
    for key in ("environment", "git"):
        checks.section(f"circumstances.{key}", found.get(key, {}))
    for key in ("seconds", "images_per_second", "latency_ms"):
        if found.get(key) is not None:
            checks.number(f"circumstances.{key}", found[key], 0, LARGEST)
    cohort = found.get("cohort", [])
    if not isinstance(cohort, list):
        raise ValueError(f"circumstances.cohort {checks.shown(cohort)}; expected a list of methods")
    for method in cohort:
        checks.name("circumstances.cohort", method)
    if "exact" in found:
        checks.boolean("circumstances.exact", found["exact"])
    if "started" in found:
        _time("circumstances.started", found["started"])


def _time(place: str, value: Any) -> None:
    try:
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        when = None
    if when is None or when.tzinfo is None or not YEARS[0] <= when.year <= YEARS[1]:
        raise ValueError(f"{place} {checks.shown(value)}; expected a time with its zone, in ISO 8601")


def _plain(place: str, value: Any, depth: int = 4) -> None:
    """Sections and lists of numbers, short texts, true, false and nothing."""
    if isinstance(value, dict | list) and depth == 0:
        raise ValueError(f"{place}; expected fewer levels")
    if isinstance(value, dict):
        for key, one in value.items():
            checks.text(place, key)
            _plain(f"{place}.{key}", one, depth - 1)
    elif isinstance(value, list):
        for one in value:
            _plain(place, one, depth - 1)
    elif isinstance(value, str):
        if value:
            checks.text(place, value)
    elif value is not None and not isinstance(value, bool):
        checks.number(place, value, -LARGEST, LARGEST)
