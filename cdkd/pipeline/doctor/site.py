"""What a check reads (`Site`) and returns (`Verdict`)."""

from __future__ import annotations

import configparser
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cdkd.config.params import Params, load
from cdkd.config.paths import data_folder, run_folder
from cdkd.config.teachers import views
from cdkd.core.errors import BadCheckpoint, BadRecord, CdkdError
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import Meta, read_meta
from cdkd.pipeline.verify import valid
from cdkd.runs.predictions import RECORD
from cdkd.runs.record import Record, read
from cdkd.runs.specification import student_plans, teacher_plan
from cdkd.runs.store import ABSENT, WEIGHTS, Store
from cdkd.storage.owner import Owner

Mark = Literal["ok", "warn", "BAD"]


COLOURS: dict[Mark, int] = {"ok": 32, "warn": 33, "BAD": 31}


MOST = 5  # names on one line


class Fault(NamedTuple):
    mark: Mark
    text: str
    hint: str


class Verdict(NamedTuple):
    """summary: shown if there is no fault, unless it is empty"""

    summary: str
    faults: list[Fault]


NOTHING = Verdict("", [])  # what the check needs is missing, which another check reports


@dataclass(frozen=True)
class Finding:
    """A line of the page."""

    mark: Mark
    what: str
    text: str
    hint: str = ""

    def line(self, *, colour: bool) -> str:
        mark = f"{self.mark:<4}"
        shown = f"\033[{COLOURS[self.mark]}m{mark}\033[0m" if colour else mark
        return f"{shown}  {self.what:<13}  {self.text}" + (f"\n{'':21}hint: {self.hint}" if self.hint else "")


class Site:
    """The checkout that is examined.

    Each thing is read once. Nothing is changed, while the functions for training set damaged runs aside.
    """

    def __init__(self, root: Path, *, quick: bool) -> None:
        self.root, self.quick, self.store = root, quick, Store(root)

    @cached_property
    def params(self) -> Params | None:
        with contextlib.suppress(CdkdError):
            return load(self.root / "params.yaml")
        return None

    @cached_property
    def data(self) -> Meta | None:
        with contextlib.suppress(CdkdError):
            return read_meta(data_folder(self.params)) if self.params else None
        return None

    @cached_property
    def teacher(self) -> Record | None:
        """Today's finished main teacher, from the store or else the workspace."""
        return None if self.params is None else self._teacher_of(self.params)

    def _teacher_of(self, view: Params) -> Record | None:
        if self.data is None:
            return None
        plan = teacher_plan(view, self.data)
        for path in (
            self.store.folder / plan.fingerprint / RECORD,
            run_folder(view, TEACHER) / f"seed-{plan.seed}.json",
        ):
            with contextlib.suppress(CdkdError):
                record = read(path)
                if (record.fingerprint, record.status) == (plan.fingerprint, "finished"):
                    return record
        return None

    @cached_property
    def plans(self) -> dict[str, RunSpec]:
        """Every run of params.yaml by its fingerprint; see `places_of_plans`."""
        return {plan.fingerprint: plan for plan in self.places_of_plans.values()}

    @cached_property
    def places_of_plans(self) -> dict[Path, RunSpec]:
        """Every run of params.yaml by the place of its copy in the workspace.

        Only the teacher's where that is not trained; none where there are no data.
        """
        if self.params is None or self.data is None:
            return {}
        found: dict[Path, RunSpec] = {}
        for view in views(self.params):
            plans, teacher = [teacher_plan(view, self.data)], self._teacher_of(view)
            if teacher is not None:
                plans += [
                    plan for seed in view.seeds for plan in student_plans(view, self.data, teacher, seed)
                ]
            found |= {run_folder(view, plan.method) / f"seed-{plan.seed}.json": plan for plan in plans}
        return found

    @cached_property
    def places(self) -> list[Path]:
        """The store's folders, without those that `leftovers` reports."""
        return [
            path
            for path in sorted(self.store.folder.glob("*"))
            if path.is_dir() and not path.name.startswith((".", "damaged-"))
        ]

    @cached_property
    def stored(self) -> dict[str, Record | CdkdError]:
        """The store's entries: each its record, or what is wrong with it."""
        return {path.name: _entry(path) for path in self.places}

    @cached_property
    def pending(self) -> list[RunSpec]:
        return [plan for key, plan in self.plans.items() if not isinstance(self.stored.get(key), Record)]

    @cached_property
    def held(self) -> dict[str, Owner]:
        """Who holds which lease."""
        return {name: holder.owner for name, holder in self.store.leases.all().items()}

    def one_line(self, text: object) -> str:
        """A message without the project's own path, on one line."""
        lines = [line.strip() for line in str(text).replace(f"{self.root}/", "").splitlines()]
        return "; ".join(lines[:2]) or type(text).__name__


Check = Callable[[Site], Verdict]


def environment_of(record: Record) -> dict[str, Any]:
    return record.circumstances.get("environment") or {}


def dvc_settings(root: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    return found


def _entry(place: Path) -> Record | CdkdError:
    try:
        record = valid(place / RECORD, place / WEIGHTS)
        if record.fingerprint != place.name:
            return BadRecord(f"{place}: holds the record of {record.fingerprint}")
        if record.status == "finished" and not (place / WEIGHTS).is_file() and not (place / ABSENT).is_file():
            return BadCheckpoint(f"{place / WEIGHTS}: missing")
    except CdkdError as error:
        return error
    except (OSError, ValueError, RecursionError, TypeError, AttributeError) as error:
        return BadRecord(f"{place}: cannot be read ({type(error).__name__}: {error})")
    return record


def some(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:MOST]) + (f" and {len(found) - MOST} more" if len(found) > MOST else "")


def how_many(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def size_of(paths: Iterable[Path]) -> str:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else (path,))]
    return amount(sum(file.stat().st_size for file in files if file.is_file()))


def amount(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
