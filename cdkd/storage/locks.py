"""Locks between processes of one machine.

The kernel keeps them (flock): a lock ends with its process, in whatever way that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, *, wait: bool, log: Callable[[str], None] = print) -> Iterator[bool]:
    """Hold the lock of a file; yields False at once if another process holds it and `wait` is false.

    The file names the last process that had the lock; that the file exists means nothing.
    log: receives a line if it has to wait
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            file.seek(0)
            log(f"waiting for process {file.read().strip() or 'unknown'}, which works on {path.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield True
