"""A progress line: the share that is done, the time elapsed and the time left."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Self

from cdkd.core.processes import HELPER


class Progress:
    """Rewrites its line on a terminal; elsewhere (a log, DVC) prints one every ten seconds.

    The time left is an estimate from the work done so far; none is shown before two percent are done.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.terminal = (
            sys.stderr.isatty() and HELPER not in os.environ
        )  # one process rewrites a line, not several
        self.started = self.printed = time.monotonic()
        self.open = False

    def count(self, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        if now - self.printed < (0.2 if self.terminal else 10.0) and done < total:
            return
        if done >= total and not self.open and now - self.started < 2.0:
            return  # too quick to be worth a line
        self.printed, self.open = now, True
        share = done / total if total else 1.0
        left = (
            f", about {clock((now - self.started) * (1 - share) / share)} left" if 0.02 <= share < 1 else ""
        )
        text = f"{self.what}: {share:4.0%}{note}, {clock(now - self.started)} elapsed{left}"
        print(
            f"\r\033[K{text}" if self.terminal else text,
            end="" if self.terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.open and self.terminal:
            print(file=sys.stderr)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
