"""When the worker must stop."""

from __future__ import annotations

import time


class Deadline:
    """When to stop: if the longest pause between two questions so far would not end in time once more."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.last: float | None = None
        self.longest = 0.0
        self.stopped = False

    @property
    def over(self) -> bool:
        return self.stopped or time.monotonic() >= self.end

    def begin(self) -> None:
        """A cohort begins; what comes before its first step is no pause."""
        self.last = None

    def __call__(self) -> bool:
        """Called after each step: whether to stop. The evaluation after an epoch is part of a pause."""
        before, self.last = self.last, time.monotonic()
        if before is not None:
            self.longest = max(self.longest, self.last - before)
        self.stopped = self.last + self.longest > self.end
        return self.stopped
