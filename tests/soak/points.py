"""The points at which a process dies: each wraps a real function of cdkd, in the process that is to be killed
alone.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KINDS = {  # of files, by their names
    r"state-\d{5}\.pt": "a state",
    r"LAST": "LAST",
    r"record\.json": "a record",
    r"weights\.safetensors": "weights",
    r"seed-\d+\.json": "a record copied out",
    r"seed-\d+\.safetensors": "weights copied out",
    r"data\.json": "data.json",
    r"(train|validation|test)\.safetensors": "a split",
    r"[0-9a-f]{64}": "a run",
    r".*\.(csv|md|tex|html|svg|png|txt|json)": "a page of the report",
}
ROW = "half a row of the teacher's answers"
CODES = {
    "KILL": -9,
    "TERM": 143,
    "INT": 130,
    "INT twice": 130,
}  # how a process is asked to end, and the code it ends with


def kind(path: Any) -> str:
    name = re.sub(r"^\.(.+)\.[^.]*\.tmp$", r"\1", Path(path).name)
    return next((what for pattern, what in KINDS.items() if re.fullmatch(pattern, name)), "another file")


class Trap:
    """Counts how often this process comes by each point, and kills it at the n-th time of one."""

    def __init__(self, kill: tuple[str, int, str] | None, report: int) -> None:
        """kill: point, which time, and how; report: a file descriptor that is told of the death just before
        it
        """
        self.point, self.nth, self.how = kill or ("", 0, "")
        self.report, self.counts, self.sprung = report, Counter[str](), False

    def due(self, point: str) -> bool:
        self.counts[point] += 1
        return not self.sprung and (self.point, self.nth) == (point, self.counts[point])

    def at(self, point: str) -> None:
        if self.due(point):
            self.spring()

    def spring(self, victim: int = 0) -> None:
        """End the process `victim`, or this one."""
        self.sprung = True
        self.tell({"point": self.point, "nth": self.nth})
        if self.how == "INT twice":
            signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        os.kill(victim or os.getpid(), getattr(signal, f"SIG{self.how.split()[0]}"))

    def tell(self, what: dict[str, Any]) -> None:
        os.write(self.report, (json.dumps(what) + "\n").encode())


class Instead:
    """A module as one other module sees it, with some of its functions replaced."""

    def __init__(self, module: Any, **own: Any) -> None:
        self.__dict__.update(own)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class HalfWriter(io.BufferedWriter):
    """A file whose n-th write ends half-way, with the process."""

    def __init__(self, handle: int, trap: Trap) -> None:
        super().__init__(io.FileIO(handle, "wb"))
        self.trap = trap

    def write(self, content: bytes) -> int:
        if self.trap.due(f"half-written: {_kind_of(self.fileno())}"):
            super().write(content[: len(content) // 2])
            self.flush()
            self.trap.spring()
        return super().write(content)


def _kind_of(handle: int) -> str:
    path = os.readlink(f"/proc/self/fd/{handle}")
    return "a folder" if os.path.isdir(path) else kind(path)


def around(trap: Trap, owner: Any, name: str, before: str | None = None, after: str | None = None) -> None:
    """Points at the beginning and at the end of one of cdkd's functions."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def wrapped(*words: Any, **named: Any) -> Any:
        if before:
            trap.at(before)
        result = real(*words, **named)
        if after:
            trap.at(after)
        return result

    setattr(owner, name, wrapped)


def everywhere(real: Any, wrapped: Any) -> None:
    """In place of a function of cdkd, in all modules that have imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("cdkd.") and getattr(module, real.__name__, None) is real:
            setattr(module, real.__name__, wrapped)


def arm(trap: Trap) -> None:
    """Every point but the follower's."""
    from cdkd.data import writer
    from cdkd.runs import execution, store
    from cdkd.tracking import subprocess_tracker
    from cdkd.training import checkpoint, optimiser, run

    _files(trap)
    _evaluation(trap)
    _answers(trap)
    _lock(trap)
    around(
        trap,
        store.Store,
        "put",
        before="between checkpoint and record",
        after="a run is put, its checkpoints are there",
    )
    around(trap, store.Store, "copy_out", before="before a run is copied out")
    around(trap, store.tempfile, "mkdtemp", after="an empty staging folder")
    around(trap, checkpoint, "clear", after="the checkpoints are cleared")
    around(trap, checkpoint, "load", before="before a resumption", after="a state is read")
    around(trap, checkpoint, "_clear", before="before old states are removed")
    around(trap, run.Run, "step", before="before a step")
    around(trap, optimiser.SGD, "step", before="between gradient and step")
    around(trap, run.Run, "close_epoch", after="an epoch is closed")
    around(
        trap, run.Run, "save", before="before a checkpoint", after="after a checkpoint"
    )  # of a cohort: members stand at different epochs
    around(trap, execution, "record_of", before="before a record")
    around(trap, subprocess_tracker.SubprocessTracker, "epoch", before="before tracking is told of an epoch")
    around(trap, subprocess_tracker.SubprocessTracker, "finish", before="before tracking is told of an end")
    around(trap, subprocess_tracker.SubprocessTracker, "close", before="before tracking is closed")
    around(
        trap, writer.SplitWriter, "add", before="before a part of a split", after="after a part of a split"
    )


def _files(trap: Trap) -> None:
    from cdkd.data import writer
    from cdkd.pipeline import stages
    from cdkd.runs import store
    from cdkd.storage import files

    def replace(source: Any, target: Any) -> None:
        trap.at(f"before the rename: {kind(target)}")
        os.replace(source, target)
        trap.at(f"after the rename: {kind(target)}")

    def fsync(handle: int) -> None:
        trap.at(f"before fsync: {_kind_of(handle)}")
        os.fsync(handle)

    def fdopen(handle: int, mode: str) -> HalfWriter:
        trap.at(f"an empty temporary: {_kind_of(handle)}")
        return HalfWriter(handle, trap)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if trap.sprung and trap.how == "INT twice":
            time.sleep(0.3)  # so that the second one comes while the first is cleaned up after
        remove(path, missing_ok=missing_ok)
        trap.at(f"after the removal: {kind(path)}")

    for module in (files, store, writer):
        module.os = Instead(os, replace=replace, fsync=fsync, fdopen=fdopen)
    remove, Path.unlink = Path.unlink, unlink
    around(
        trap,
        stages,
        "remove_folder",
        before="before the old copies are removed",
        after="the old copies are removed",
    )


def _evaluation(trap: Trap) -> None:
    from cdkd.data import batches

    real = batches.evaluation

    def evaluation(*words: Any, **named: Any) -> Iterator[Any]:
        for batch in real(*words, **named):
            trap.at("in an evaluation")
            yield batch

    everywhere(real, evaluation)


def _answers(trap: Trap) -> None:
    from cdkd.training.teacher_cache import TeacherCache

    answer = TeacherCache.__call__

    def torn(cache: TeacherCache, batch: Any, ask: Any) -> Any:
        found = answer(cache, batch, ask)
        if trap.due(ROW):
            places = batch.indices.numpy() * cache.views + batch.crops.numpy()
            rows = cache._rows.read(places)
            rows[:, cache.widths[0] :] = 0
            cache._rows.write(places, rows)
            trap.spring()
        return found

    TeacherCache.__call__ = torn


def _lock(trap: Trap) -> None:
    from cdkd.runs import store

    lock = store.Store.lock

    @contextmanager
    def locked(*words: Any, **named: Any) -> Iterator[bool]:
        with lock(*words, **named) as locked:
            trap.at("the lock is asked for")
            yield locked

    store.Store.lock = locked
