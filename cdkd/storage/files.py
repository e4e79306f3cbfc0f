"""Files that are whole or absent, and digests by which they are trusted."""

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
    """The old file or the whole new one, whatever happens meanwhile; durable once this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = f".{path.name}."
    clear_drafts(path.parent, start, DRAFT)
    while True:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=start, suffix=DRAFT)
        if _hold(handle, temporary):
            break
        os.close(handle)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_names(path.parent)


@contextlib.contextmanager
def draft_folder(parent: Path, start: str) -> Iterator[Path]:
    """A folder to fill, and to rename when it is whole; removed in the end if it is still there."""
    clear_drafts(parent, start)
    while True:
        folder = tempfile.mkdtemp(dir=parent, prefix=start)
        handle = os.open(folder, os.O_RDONLY)
        if _hold(handle, folder):
            break
        os.close(handle)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@contextlib.contextmanager
def left_behind(draft: Path) -> Iterator[bool]:
    """Whether its maker is gone: nobody holds the lock. No one takes it meanwhile."""
    try:
        handle = os.open(draft, os.O_RDONLY)
    except OSError:  # renamed or removed by now
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = True
    except OSError:  # held; or a file system without locks, where nobody can tell
        gone = False
    try:
        yield gone
    finally:
        os.close(handle)


def _hold(handle: int, draft: str) -> bool:
    """Lock what was just made; False if another process took it for left behind before that.

    The lock is the kernel's and goes with its process, however and wherever that dies; a process number would soon be another's.
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
        with left_behind(draft) as gone:
            if gone and draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            elif gone:
                draft.unlink(missing_ok=True)


def sync_names(folder: Path) -> None:
    """Make durable which names the folder holds."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
