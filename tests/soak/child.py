"""The process that is to be killed: a fork that carries out one command of cdkd, with at most one point
armed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.soak.points import Instead, Trap, arm, everywhere
from tests.waiting import PATIENCE

FOLLOWER = {
    "open": "opens",
    "log": "logs",
    "finish": "finishes",
}  # functions of the view, and what the follower does in them


@dataclass(frozen=True)
class Order:
    """What a child is to do, and where and how it dies. tracked: with MLflow's follower; faulty: a resumption
    goes wrong, as a control.
    """

    words: Sequence[str]
    kill: tuple[str, int, str] | None = None
    tracked: bool = False
    faulty: bool = False


def perform(order: Order, report: int) -> int:
    """The command's exit code; the project is the working directory."""
    trap = Trap(order.kill, report)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    arm(trap)
    _quickly()
    if not order.tracked:
        _mute()
    _fork_again(trap)
    if order.faulty:
        _make_resumption_faulty()
    code = _main(order.words)
    signal.setitimer(signal.ITIMER_REAL, 0)
    trap.tell({"counts": trap.counts})
    return code


def _main(words: Sequence[str]) -> int:
    from cdkd.cli import main

    try:
        return main(list(words))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def _quickly() -> None:
    """A checkpoint at every epoch's edge; and no time for what is only measured."""
    from cdkd.runs import execution

    execution.CHECKPOINT_SECONDS = 0.0
    everywhere(execution.latency, lambda *words, **named: 0.0)


def _mute() -> None:
    """Train without MLflow, which would cost more than the training."""
    from cdkd.pipeline import scheduler

    def unwatched(params: Any, plans: Any, circumstances: Any) -> Any:
        from cdkd.runs.execution import no_watcher

        return no_watcher(plans, circumstances)

    scheduler._track = unwatched


class Forked:
    """Stands in for `subprocess.Popen` where cdkd starts itself again: a fork has imported everything
    already.
    """

    def __init__(self, trap: Trap, words: Sequence[str], stdin: int | None = None, **_: Any) -> None:
        inner, outer = os.pipe()
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _only(inner, trap.report)
            os._exit(_again(trap, words))
        os.close(inner)
        self.stdin = os.fdopen(outer, "w", encoding="utf-8") if stdin is not None else os.close(outer)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.002)
        return self.returncode or 0

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _only(stdin: int, report: int) -> None:
    """What a program started anew would hold open: no lock, no pipe of its parent's.

    The numbers stay taken, as objects still name them.
    """
    os.dup2(stdin, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (report, nothing) and os.path.exists(f"/proc/self/fd/{name}"):
            os.dup2(nothing, int(name))


def _again(trap: Trap, words: Sequence[str]) -> int:
    """What `python -m cdkd...` would do."""
    try:
        if "cdkd.pipeline.mlflow_writer" not in words:
            return _main(words[words.index("cdkd") + 1 :])
        from cdkd.pipeline import mlflow_writer

        sys.stdin = os.fdopen(0, encoding="utf-8")
        mlflow_writer.Tracker = partial(mlflow_writer.Tracker, every=0.1)  # it writes while they train
        _arm_follower(trap)
        mlflow_writer.listen()
        return 0
    finally:
        sys.stdout.flush()


def _arm_follower(trap: Trap) -> None:
    """In the process that writes to MLflow: it dies, or the training that it follows."""
    from cdkd.tracking.view import View

    trainer = os.getppid()

    def deadly(real: Callable[..., Any], word: str) -> Callable[..., Any]:
        def wrapped(*words: Any, **named: Any) -> Any:
            for point, victim in (
                (f"the follower {word}, training dies", trainer),
                (f"the follower {word}, and dies", os.getpid()),
            ):
                if trap.due(point) and victim in (
                    os.getpid(),
                    os.getppid(),
                ):  # a trainer that has ended left its number to another
                    trap.spring(victim)
            return real(*words, **named)

        return wrapped

    for name, word in FOLLOWER.items():
        setattr(View, name, deadly(getattr(View, name), word))


def _fork_again(trap: Trap) -> None:
    from cdkd.core import processes
    from cdkd.tracking import subprocess_tracker

    processes.subprocess = subprocess_tracker.subprocess = Instead(subprocess, Popen=partial(Forked, trap))


def _make_resumption_faulty() -> None:
    """A resumption changes a weight and leaves a file behind."""
    from cdkd.training import checkpoint

    load = checkpoint.load

    def faulty(folder: Any) -> Any:
        state = load(folder)
        if state is not None:
            next(iter(state["model"].values())).view(-1)[0] += 1e-3
            (folder.parent / ".LAST.faulty.tmp").write_text("left behind")
        return state

    checkpoint.load = faulty
