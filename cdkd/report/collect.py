"""Finds the records of a report: the runs that params.yaml names, each found, missing, stale or damaged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cdkd.config.params import Params
from cdkd.config.paths import run_folder, runs_folder
from cdkd.config.teachers import Key, key_of, views
from cdkd.core.errors import BadCheckpoint, BadRecord
from cdkd.report.error_analysis import ErrorAnalysis, error_analysis
from cdkd.report.history import History, finite
from cdkd.runs.predictions import read_predictions
from cdkd.runs.record import Record, read

TEACHER = "teacher"
Expected = Mapping[tuple[str, Key], str]


@dataclass(frozen=True)
class FoundRun:
    """What was found where the record of one run should be. A run counts in a number if its state is `ok`.

    record: without its history and error analysis, which are kept apart in less memory
    teacher: the seed of its teacher, where params have several
    source: the other teacher that it learns from, with its error; empty of the main one
    detail, brief: why the run does not count, for a footnote and for a cell
    unreadable: why the record's error analysis cannot be used
    wrong: whether each test image is classified wrongly (bool [N]); None of runs without predictions
    """

    method: str
    seed: int
    state: str  # ok | missing | stale | unverified | diverged | unfinished | damaged | duplicate
    record: Record | None = None
    detail: str = ""
    brief: str = ""
    history: History = field(default_factory=History)
    analysis: ErrorAnalysis | None = None
    unreadable: str = ""
    wrong: np.ndarray | None = None
    teacher: int | None = None
    source: str = ""

    @property
    def key(self) -> Key:
        """Runs of two methods with equal keys are compared: the seed, or the teacher's seed and the seed."""
        return self.seed if self.teacher is None else (self.teacher, self.seed)

    @property
    def label(self) -> str:
        return label(self.key)

    @property
    def ok(self) -> Record | None:
        return self.record if self.state == "ok" else None


def label(key: Key) -> str:
    """ "seed 0", or "teacher 1, seed 0"."""
    return f"teacher {key[0]}, seed {key[1]}" if isinstance(key, tuple) else f"seed {key}"


def collect(params: Params, expected: Expected, runs: Path) -> dict[str, tuple[FoundRun, ...]]:
    """Every run that params name, the main teacher's first, whichever files exist. Each record is read once.

    expected: today's fingerprint of each run, by `key_of`; a run without one cannot be verified
    runs: the folder with `<method>/seed-<n>.json`, and `search/<method>/` for methods that a search produced
    """
    several = len(params.teacher.all_seeds) > 1
    found: dict[str, tuple[FoundRun, ...]] = {TEACHER: ()}
    for view in views(params):
        those = _of_view(view, expected, runs)
        teacher, seed = those.pop(TEACHER)[0], view.teacher.seed if several else None
        source = _source(view, teacher) if view.taught_by else ""
        if not source:
            found[TEACHER] += (teacher,)
        for method, mine in those.items():
            mine = tuple(replace(run, teacher=seed, source=source) for run in mine)
            found[method] = (*found.get(method, ()), *mine)
    order = (TEACHER, *params.methods)
    return {name: found[name] for name in dict.fromkeys((*order, *found)) if name in found}


def _source(view: Params, teacher: FoundRun) -> str:
    error = number(teacher.ok, "last", "test_top1_error") if teacher.ok else None
    known = "" if error is None else f", top-1 error {error:.2f} %"
    mode = ", BatchNorm in train mode" * (view.teacher.batchnorm == "train")
    return f"{view.taught_by} ({view.teacher.network}{', untrained' * view.teacher.untrained}{mode}{known})"


def _of_view(params: Params, expected: Expected, runs: Path) -> dict[str, tuple[FoundRun, ...]]:
    """The runs of one teacher, its own first."""
    named = (*params.methods, *params.report.ablation, *params.report.comparison)
    wanted = {TEACHER: (params.teacher.seed,)} | dict.fromkeys(named, params.seeds)
    found = {}
    for method, seeds in wanted.items():
        folder = runs / run_folder(params, method).relative_to(runs_folder(params))
        read_runs = tuple(
            _find_run(folder, method, seed, expected.get(key_of(params, method, seed))) for seed in seeds
        )
        found[method] = _without_duplicates(folder, read_runs)
    return found


def number(record: Record, row: str, key: str) -> float | None:
    """A finite number of the result's row `last` or `best`, or None."""
    rows = record.result.get(row) if isinstance(record.result, dict) else None
    return finite(rows.get(key)) if isinstance(rows, dict) else None


def _find_run(folder: Path, method: str, seed: int, today: str | None) -> FoundRun:
    path = folder / f"seed-{seed}.json"
    if not path.exists():
        return FoundRun(method, seed, "missing")
    try:
        record = read(path)
    except (BadRecord, RecursionError) as fault:
        detail = str(fault).replace(f"{folder.parent}/", "") or "not a record"
        return FoundRun(method, seed, "damaged", detail=detail)
    if record.fingerprint != today:
        # a fingerprint that matches is enough: it contains no method name, so a renamed method keeps its runs
        if (record.method, record.seed) != (method, seed):
            other = f"{method}/{path.name} holds the record of {record.method} seed {record.seed}"
            return FoundRun(method, seed, "damaged", _slim(record), other)
        return FoundRun(method, seed, "unverified" if today is None else "stale", _slim(record))
    if record.status == "diverged":
        return FoundRun(method, seed, "diverged", _slim(record), record.reason or "", _where(record))
    if record.status != "finished":
        return FoundRun(method, seed, "unfinished", _slim(record), f"its status is {record.status}")
    error = number(record, "last", "test_top1_error")
    if error is None or not 0 <= error <= 100:
        why = f"{method}/{path.name}: no test_top1_error from 0 to 100 in result.last"
        return FoundRun(method, seed, "damaged", _slim(record), why)
    analysis, unreadable, wrong = None, "", None
    try:
        analysis = error_analysis(record)
    except ValueError as fault:
        unreadable = str(fault)
    try:
        predictions = read_predictions(path, record)
        wrong = None if predictions is None else predictions.wrong
    except BadCheckpoint as fault:
        unreadable = str(fault).replace(f"{folder.parent}/", "")
    history = History(record.history if isinstance(record.history, list) else ())
    return FoundRun(
        method, seed, "ok", _slim(record), "", "", history, analysis, unreadable=unreadable, wrong=wrong
    )


def _slim(record: Record) -> Record:
    """Without what takes most of the memory."""
    result = record.result if isinstance(record.result, dict) else {}
    return replace(record, history=[], result={key: result[key] for key in result if key != "examined"})


def _without_duplicates(folder: Path, found: tuple[FoundRun, ...]) -> tuple[FoundRun, ...]:
    """A run with a second file that has another result cannot be used. An identical copy does not matter."""
    mine = {f"seed-{run.seed}.json" for run in found}
    others: dict[str, Record] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name not in mine:
            try:
                others[path.name] = read(path)
            except (BadRecord, RecursionError):
                continue  # params.yaml does not ask for this file
    same_run = {
        run.seed: [name for name, other in others.items() if other.fingerprint == run.ok.fingerprint]
        for run in found
        if run.ok
    }

    def check(run: FoundRun) -> FoundRun:
        for name in same_run.get(run.seed, ()):
            if _outcome(others[name]) != _outcome(read(folder / f"seed-{run.seed}.json")):
                names = f"{run.method}/seed-{run.seed}.json and {run.method}/{name}"
                return replace(run, state="duplicate", detail=f"{names} differ and are the same run")
        return run

    return tuple(map(check, found))


def _outcome(record: Record) -> tuple[Any, ...]:
    return record.status, record.config, record.history, record.result


def _where(record: Record) -> str:
    """The epoch in which a run diverged and what became infinite first, from its reason."""
    reason = record.reason or ""
    epoch = re.search(r"in epoch (\d+)", reason)
    losses = re.findall(r"loss (\S+) is", reason) or (["a weight"] if "weight" in reason else [])
    where = f"in epoch {epoch.group(1) if epoch else len(record.history)}"
    return where + (f" ({', '.join(losses)})" if losses else "")
