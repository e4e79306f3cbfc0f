"""How a task is asked to stop: by signals, from its first moment on. Needs no library."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

from cdkd.cluster import slurm
from cdkd.storage.leases import any_lost

STOPPED = 75  # exit code (EX_TEMPFAIL): the same command continues


class Stop:
    """Asked after each step whether to stop: after SIGTERM (a preemption), SIGUSR1 (the time is nearly
    over), or where another process has taken over the work.
    """

    def __init__(self) -> None:
        """Listens from now on."""
        self.signal: int | None = None
        self._at_once = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._received)

    def __call__(self) -> bool:
        return self.signal is not None or any_lost()

    def at_once(self) -> None:
        """From now on raise `SystemExit` where a signal comes; raises it if one has come already."""
        self._at_once = True
        if self.signal is not None:
            raise SystemExit(self.end())

    def _received(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal == number == signal.SIGTERM, number
        if self._at_once or again:
            raise SystemExit(self.end())
        why = "its time is over" if number == signal.SIGUSR1 else "it is asked to stop"
        # not `print`: the signal may have come while another line is printed, which Python refuses to nest
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stdout.fileno(), f"{why}: a checkpoint follows\n".encode())

    def close(self) -> None:
        """The task is done: no signal may kill the process now, which takes seconds to end."""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def end(self) -> int:
        """The exit code of a task that was stopped.

        Slurm requeues a preempted job by itself, and not one whose time is over.
        """
        if self.signal != signal.SIGUSR1:
            return 128 + signal.SIGTERM
        slurm.requeue_own_job()
        return STOPPED
