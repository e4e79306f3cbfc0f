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

from cdkd.core.errors import CdkdError

DRAFT = ".tmp"  # how the name of a half-written file ends


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unwritable(path: Path) -> Path | None:
    """What keeps this process from writing `path`: its folder, or the file itself; None where nothing does.

    Where the folder does not exist, the nearest one above it that does.
    """
    path = path.absolute()
    folder = next(one for one in (path, *path.parents) if one.is_dir())
    if not os.access(folder, os.W_OK | os.X_OK):
        return folder
    return path if path.exists() and not os.access(path, os.W_OK) else None


def require_writable(path: Path) -> None:
    """Raises `CdkdError` naming the folder, or the file, that this process may not write."""
    if (place := unwritable(path)) is not None:
        raise CdkdError(read_only(place))


def read_only(place: Path) -> str:
    return (
        f"{place}: cannot be written: it, or its file system, is read-only for this user; "
        "make it writable, or work in a copy of the project"
    )


def remove_folder(folder: Path) -> None:
    """Remove what is at this path, if anything is: a folder with its content, a file, a link itself."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            error.filename = str(folder)  # it names the last part of a path alone
            raise


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
    except OSError:  # a file system without locks: drafts are never cleared there
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
