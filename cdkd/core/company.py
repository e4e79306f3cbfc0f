"""Whether this process has to wait for a core that other processes use."""

from __future__ import annotations

import time
from pathlib import Path

TASKS = Path("/proc/self/task")  # Linux; elsewhere nothing is known
SECONDS = 5.0  # least time over which a share is measured
MUCH = 0.2


class Company:
    """The share of its time in which a thread of this process was ready to run and had no core."""

    def __init__(self) -> None:
        self._began, self._before = time.monotonic(), _spent()
        self.share = 0.0

    def note(self, threads: int) -> str:
        """For the progress line: empty unless the machine is shared. threads: of the computation"""
        self._update()
        if self.share < MUCH:
            return ""
        faster = "; OMP_NUM_THREADS=1 would be faster" if threads > 1 else ""
        return f", machine shared: {self.share:.0%} of the time waiting for a core{faster}"

    def _update(self) -> None:
        now = time.monotonic()
        if now - self._began < SECONDS:
            return
        after = _spent()
        ran, waited = (max(0, new - old) for new, old in zip(after, self._before, strict=True))
        self.share = waited / (ran + waited) if ran + waited else 0.0
        self._began, self._before = now, after


def _spent() -> tuple[int, int]:
    """Nanoseconds that the threads of this process ran, and that they waited for a core, since they began."""
    ran = waited = 0
    for task in TASKS.glob("*/schedstat"):
        try:
            numbers = task.read_text(encoding="ascii").split()
            ran, waited = ran + int(numbers[0]), waited + int(numbers[1])
        except (OSError, ValueError, IndexError):  # the thread has ended, or the kernel does not count
            continue
    return ran, waited
