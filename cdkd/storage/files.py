"""Atomic files: complete or absent, never half-written; and their digests."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cdkd.core.errors import CdkdError
from cdkd.storage.owner import SEPARATOR, Owner

DRAFT = ".tmp"  # how the name of a half-written file ends
DAY = 86_400.0  # seconds


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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_signed(start), suffix=DRAFT)
    try:
        with os.fdopen(handle, "wb") as file:
            _clear_others(Path(temporary), start, DRAFT)
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
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=_signed(start)))
    try:
        _clear_others(folder, start)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def left_behind(draft: Path, now: float | None = None) -> bool:
    """Whether the process that made the draft has ended.

    One on another host counts as ended when it has written nothing for a day.
    now: by the clock that sets the times of files there
    """
    owner = Owner.parse(SEPARATOR.join(draft.name.split(SEPARATOR)[-5:-1]))
    if owner is not None and owner.is_here:
        return owner.has_ended
    try:
        written = max(path.stat().st_mtime for path in (draft, *(draft.rglob("*") if draft.is_dir() else ())))
    except (OSError, ValueError):  # renamed or removed by now
        return False
    return bool((time.time() if now is None else now) - written > DAY)


def clear_drafts(folder: Path, start: str, end: str = "", now: float | None = None) -> None:
    """Remove what processes left that were killed while they wrote."""
    for draft in folder.glob(f"{glob.escape(start)}*{end}"):
        if left_behind(draft, now):
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)


def _clear_others(own: Path, start: str, end: str = "") -> None:
    """own: a draft that was just made, whose time is the file server's"""
    clear_drafts(own.parent, start, end, own.stat().st_mtime)


def _signed(start: str) -> str:
    return f"{start}{Owner.me().text}{SEPARATOR}"


def sync_names(folder: Path) -> None:
    """Make the names in a folder durable (fsync)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
