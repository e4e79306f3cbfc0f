"""Files that are whole or absent, and digests by which they are trusted."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(value: Any) -> str:
    """JSON in which equal values are equal text: sorted keys, and 1.0 written as 1."""

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {str(key): plain(item) for key, item in node.items()}
        if isinstance(node, list | tuple):
            return [plain(item) for item in node]
        if isinstance(node, float) and node.is_integer():
            return int(node)
        return node

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """The old file or the whole new one, whatever happens meanwhile; durable once this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_temporaries(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}-", suffix=".tmp")
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


def _clear_temporaries(path: Path) -> None:
    """Remove what processes left that were killed while they wrote this file."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*-*.tmp"):
        with contextlib.suppress(ValueError):
            if not alive(int(temporary.name.removeprefix(f".{path.name}.").partition("-")[0])):
                temporary.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another's
        return True
    return True


def sync_names(folder: Path) -> None:
    """Make durable which names the folder holds."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
