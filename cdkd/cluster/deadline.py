"""When the worker must stop."""

from __future__ import annotations

import time


class Deadline:
    """When to stop: at the end of an epoch, if another one as long would not end in time."""

    def __init__(self, minutes: float) -> None:
        self.last = time.monotonic()
        self.end = self.last + 60 * minutes
        self.stopped = False

    @property
    def over(self) -> bool:
        return self.stopped or time.monotonic() >= self.end

    def begin(self) -> None:
        """The first epoch begins now."""
        self.last = time.monotonic()

    def __call__(self) -> bool:
        """Called at the end of an epoch: whether to stop."""
        before, self.last = self.last, time.monotonic()
        self.stopped = self.last + (self.last - before) > self.end
        return self.stopped
