"""The clocks of a measurement, and the one line of JSON that it ends in.

Ratios are made of processor time with one thread: on a machine that others use, wall time measures the
others.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self


class Clock:
    """Adds up wall time and this process's processor time (all its threads) over the pieces it is held
    around.
    """

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __enter__(self) -> Self:
        self._wall, self._processor = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall += time.perf_counter() - self._wall
        self.processor += time.process_time() - self._processor


class Spent(NamedTuple):
    wall: float
    processor: float


def timed(piece: Callable[[], Any], repeats: int) -> float:
    """Median processor time of a piece, in seconds; it runs once before, uncounted."""
    piece()
    seconds = []
    for _ in range(repeats):
        with Clock() as clock:
            piece()
        seconds.append(clock.processor)
    return statistics.median(seconds)


def since_start() -> Spent | None:
    """Time since this process began, imports included; None where the system does not say when that was."""
    with contextlib.suppress(OSError, AttributeError):
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf(
            "SC_CLK_TCK"
        )
        return Spent(time.clock_gettime(time.CLOCK_BOOTTIME) - began, time.process_time())
    return None


def peak_mb(who: int = resource.RUSAGE_SELF) -> float:
    """The most memory this process held at once; or the largest of its finished children, with
    RUSAGE_CHILDREN.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(who).ru_maxrss * unit / 2**20


def children_seconds() -> float:
    """Processor time of all children that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(measured: dict[str, Any]) -> None:
    """Print a measurement as one line of JSON, floats to five digits."""
    print(
        json.dumps(
            {
                key: float(f"{value:.5g}") if isinstance(value, float) else value
                for key, value in measured.items()
            }
        ),
        flush=True,
    )
