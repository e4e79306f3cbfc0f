"""Processes of this program: how many cores they share, and that none outlives its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

HELPER = "CDKD_HELPER"  # set for a process that helps another one, which shows the progress of both


def end_with(main: Callable[[], int]) -> NoReturn:
    """Run a command and end this process with its exit code; after a traceback, with 1.

    One that has had ranks ends as `leave` of `training.launch` says, whatever it ends by.
    """
    code = 1
    try:
        code = main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    if (launch := sys.modules.get("cdkd.training.launch")) is not None:
        launch.leave(code)
    sys.exit(code)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(processes: int) -> None:
    """Take this process's share of the cores.

    Call it before torch is imported, which reads the setting then.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # another busy process must not stop all threads
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))


def launched() -> int:
    """How many processes torchrun has started together with this one, itself among them."""
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if "RANK" in os.environ and count.isdecimal() else 1


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU; found without importing torch."""
    return os.path.exists("/proc/driver/nvidia/gpus")


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent process is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def is_orphan() -> bool:
    """Whether the parent died before `end_with_parent` was called.

    A process starts in its parent's process group; the process that adopts an orphan is in another one.
    """
    try:
        return os.getpgid(os.getppid()) != os.getpgrp()
    except ProcessLookupError:  # it ended between the two questions
        return True


@contextlib.contextmanager
def helpers(root: Path, count: int, *command: str) -> Iterator[None]:
    """Start so many further processes of a `cdkd` command.

    They train what no other process trains, and end with this one.
    """
    words = [sys.executable, "-m", "cdkd", *command, "--helper"]
    environment = os.environ | {HELPER: "1"}
    started = [subprocess.Popen(words, cwd=root, env=environment) for _ in range(count)]
    try:
        yield
        for helper in started:
            helper.wait()  # an error in it is ignored: this process has trained what it left
    finally:
        for helper in started:
            helper.terminate()
