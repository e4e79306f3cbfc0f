"""Atomic files: complete or absent, never half-written; and their digests."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

DRAFT = ".tmp"  # how the name of a half-written file ends


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file: after a crash it is the old one or the complete new one; durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = f".{path.name}."
    clear_drafts(path.parent, start, DRAFT)
    while True:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=start, suffix=DRAFT)
        if _lock(handle, temporary):
            break
        os.close(handle)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk: write() names no file
            error.filename = str(path)
        raise
    sync_names(path.parent)


@contextlib.contextmanager
def draft_folder(parent: Path, start: str) -> Iterator[Path]:
    """A folder to fill, and to rename when it is complete; removed at the end if it is still there."""
    clear_drafts(parent, start)
    while True:
        folder = tempfile.mkdtemp(dir=parent, prefix=start)
        handle = os.open(folder, os.O_RDONLY)
        if _lock(handle, folder):
            break
        os.close(handle)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@contextlib.contextmanager
def left_behind(draft: Path) -> Iterator[bool]:
    """Whether the process that made the draft has ended: its lock is free.

    It stays locked inside the block.
    """
    try:
        handle = os.open(draft, os.O_RDONLY)
    except OSError:  # renamed or removed by now
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ended = True
    except OSError:  # locked; or a file system without locks, where it cannot be known
        ended = False
    try:
        yield ended
    finally:
        os.close(handle)


def _lock(handle: int, draft: str) -> bool:
    """Lock a new draft; False if another process found it unlocked before that and removed it.

    The kernel frees the lock when the process ends, in whatever way; a process number would be used again.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody clears there
        pass
    return os.path.exists(draft)


def clear_drafts(folder: Path, start: str, end: str = "") -> None:
    """Remove what processes left that were killed while they wrote."""
    for draft in folder.glob(f"{glob.escape(start)}*{end}"):
        with left_behind(draft) as ended:
            if ended and draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            elif ended:
                draft.unlink(missing_ok=True)


def sync_names(folder: Path) -> None:
    """Make the names in a folder durable (fsync)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
