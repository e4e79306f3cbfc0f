"""Starts children and waits for how they end; and finds the processes that outlive them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.child import Order, perform
from tests.waiting import PATIENCE


@dataclass
class Ended:
    """code: an exit code, or the number of the signal with a minus before it; died_at: the point, as
    it reported just before
    """

    code: int
    text: str
    died_at: str | None = None
    counts: dict[str, int] = field(default_factory=dict)


class Child:
    def __init__(
        self, pid: int, log: Path, report: int | None = None, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.pid, self.log, self.report, self.process = pid, log, report, process
        self.begin = log.stat().st_size if log.exists() else 0
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None and self.process is not None:
            self.code = self.process.poll()
        elif self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self, *, group: bool) -> bool:
        """From outside; False where it had ended before."""
        if self.poll() is not None:
            return False
        (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        return True

    def sleep(self, seconds: float) -> None:
        """So long, or until it ends."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)

    def wait(self) -> Ended:
        self.sleep(PATIENCE)
        hangs = self.kill(group=True)
        while self.poll() is None:
            time.sleep(0.01)
        text = self.log.read_bytes()[self.begin :].decode(errors="replace") + (
            "\nit hung, and was killed" if hangs else ""
        )
        notes = self._notes()
        died_at = next((note["point"] for note in notes if "point" in note), None)
        return Ended(
            -999 if hangs else self.code or 0,
            text,
            died_at,
            next((note["counts"] for note in notes if "counts" in note), {}),
        )

    def _notes(self) -> list[dict[str, Any]]:
        if self.report is None:
            return []
        output = b""
        while select.select([self.report], [], [], 0)[0] and (part := os.read(self.report, 1 << 16)):
            output += part
        os.close(self.report)
        return [json.loads(line) for line in output.decode().splitlines()]


def forked(root: Path, order: Order, log: Path) -> Child:
    """A copy of this process, which has imported all and computed nothing, carries the order out in the
    project `root`.
    """
    if odd := [
        name
        for name in map(_thread_name, os.listdir("/proc/self/task"))
        if not name.startswith(("python", "jemalloc"))
    ]:
        raise RuntimeError(f"a process with threads ({', '.join(odd)}) cannot be forked safely")
    read, write = os.pipe()
    child = aside(lambda: _carried_out(root, order, log, write))
    os.close(write)
    return Child(child, log, read)


def aside(do: Callable[[], int]) -> int:
    """The pid of a fork that does this, in a session of its own, and ends with its answer; whatever happens
    it does not come back.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = do()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _carried_out(root: Path, order: Order, log: Path, report: int) -> int:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(root)
    return perform(order, report)


def _thread_name(task: str) -> str:
    return Path(f"/proc/self/task/{task}/comm").read_text().strip()


def started(root: Path, words: Sequence[str], log: Path, environment: Mapping[str, str]) -> Child:
    """A program as it is; it can only be killed from outside."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            words,
            cwd=root,
            env=environment,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    return Child(process.pid, log, process=process)


def inhabitants(root: Path) -> dict[int, str]:
    """Processes that work in the project's folder, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(path / "cwd")).is_relative_to(root):
                found[int(path.name)] = (
                    (path / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
                )
        except OSError:  # it has ended, or is another's
            continue
    return found


def left_alone(root: Path, seconds: float = PATIENCE) -> list[str]:
    """Processes that are there after so many seconds; those that end before are waited for."""
    deadline = time.monotonic() + seconds
    while (found := inhabitants(root)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [f"process {pid}: {words}" for pid, words in found.items()]
