"""Which records stand behind a report: the runs that params name, each found, or said to be missing, stale or damaged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdkd.config.params import Params
from cdkd.core.errors import BadRecord
from cdkd.runs.record import Record, read

TEACHER = "teacher"
Expected = Mapping[tuple[str, int], str]


@dataclass(frozen=True)
class Found:
    """What lies where the record of one run should be. Only a run whose state is `ok` counts in a number."""

    method: str
    seed: int
    state: str  # ok | missing | stale | unverified | diverged | unfinished | damaged | duplicate
    record: Record | None = None
    detail: str = ""  # why, for a footnote
    brief: str = ""  # why, for a cell

    @property
    def ok(self) -> Record | None:
        return self.record if self.state == "ok" else None


def collect(params: Params, expected: Expected, runs: Path) -> dict[str, tuple[Found, ...]]:
    """Every run of the experiment, the teacher's first: enumerated from params, never from what happens to lie there.

    expected: today's fingerprint of each (method, seed); a run that it lacks cannot be verified and does not count
    runs: the folder that holds `<method>/seed-<n>.json`, and `search/<method>/` of those that a search gave
    """
    named = (
        *params.methods,
        *params.report.ablation,
        *params.report.comparison,
    )  # a search may have to give some of them first
    wanted = {TEACHER: (params.teacher.seed,)} | dict.fromkeys(named, params.seeds)
    found = {}
    for method, seeds in wanted.items():
        folder = runs / "search" / method if method in params.tuned else runs / method
        found[method] = _without_duplicates(
            folder, tuple(_look(folder, method, seed, expected) for seed in seeds)
        )
    return found


def number(record: Record, row: str, key: str) -> float | None:
    """A finite number of the result's row `last` or `best`, or None."""
    rows = record.result.get(row) if isinstance(record.result, dict) else None
    return finite(rows.get(key)) if isinstance(rows, dict) else None


def finite(value: Any) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def _look(folder: Path, method: str, seed: int, expected: Expected) -> Found:
    path = folder / f"seed-{seed}.json"
    if not path.exists():
        return Found(method, seed, "missing")
    try:
        record = read(path)
    except (BadRecord, RecursionError) as fault:
        return Found(method, seed, "damaged", detail=_relative(str(fault), folder.parent) or "not a record")
    today = expected.get((method, seed))
    if record.fingerprint != today:
        # a fingerprint that fits is enough: it names no method, so a renamed method keeps its runs
        if (record.method, record.seed) != (method, seed):
            return Found(
                method,
                seed,
                "damaged",
                record,
                f"{method}/{path.name} holds the record of {record.method} seed {record.seed}",
            )
        return Found(method, seed, "unverified" if today is None else "stale", record)
    if record.status == "diverged":
        return Found(method, seed, "diverged", record, record.reason or "", _where(record))
    if record.status != "finished":
        return Found(method, seed, "unfinished", record, f"its status is {record.status}")
    error = number(record, "last", "test_top1_error")
    if error is None or not 0 <= error <= 100:
        return Found(
            method,
            seed,
            "damaged",
            record,
            f"{method}/{path.name}: no test_top1_error from 0 to 100 in result.last",
        )
    return Found(method, seed, "ok", record)


def _without_duplicates(folder: Path, found: tuple[Found, ...]) -> tuple[Found, ...]:
    """A second file with another result for the same run makes both unusable; an identical one is harmless."""
    mine = {f"seed-{run.seed}.json" for run in found}
    others: dict[str, Record] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name not in mine:
            try:
                others[path.name] = read(path)
            except (BadRecord, RecursionError):
                continue  # nothing asked for this file

    def settle(run: Found) -> Found:
        record = run.ok
        if record is None:
            return run
        for name, other in others.items():
            same_run = other.fingerprint == record.fingerprint
            if same_run and (other.status, other.config, other.history, other.result) != (
                record.status,
                record.config,
                record.history,
                record.result,
            ):
                return replace(
                    run,
                    state="duplicate",
                    detail=f"{run.method}/seed-{run.seed}.json and {run.method}/{name} differ and are the same run",
                )
        return run

    return tuple(settle(run) for run in found)


def _where(record: Record) -> str:
    """The epoch in which a run diverged and what became infinite first, from its reason."""
    reason = record.reason or ""
    epoch = re.search(r"in epoch (\d+)", reason)
    losses = re.findall(r"loss (\S+) is", reason) or (["a weight"] if "weight" in reason else [])
    return f"in epoch {epoch.group(1) if epoch else len(record.history)}" + (
        f" ({', '.join(losses)})" if losses else ""
    )


def _relative(text: str, runs: Path) -> str:
    return text.replace(f"{runs}/", "")
