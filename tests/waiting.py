"""Waiting for what happens, without asking how fast the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

PATIENCE = 3600.0  # seconds after which a test takes a program for hung; no load makes one so slow


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Returns once the condition holds; fails if the process ends before."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended too early: {process.communicate()[0]}")
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
