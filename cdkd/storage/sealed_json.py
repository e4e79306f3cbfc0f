"""Sealed JSON: plain values with a digest of themselves, so that a damaged or edited file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cdkd.core.digest import digest
from cdkd.core.errors import BadRecord
from cdkd.storage.files import write_atomically


def write(path: Path, body: dict[str, Any]) -> None:
    """body: with its `format`, a number"""
    try:
        write_atomically(path, json.dumps(body | {"digest": digest(body)}, allow_nan=False) + "\n")
    except OSError as error:
        raise BadRecord(f"{path}: cannot be written ({error.strerror})") from None


def read(path: Path, what: str, version: int) -> dict[str, Any]:
    """The values without the seal; what: "a plan"; version: its `format`.

    Raises `BadRecord` naming the file.
    """
    if path.exists() and not path.is_file():  # reading a FIFO would wait forever
        raise BadRecord(f"{path}: not a file; expected {what}")
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        seal = body.pop("digest")
        if body.get("format") != version:
            raise BadRecord(f"{path}: not {what} of format {version} but of {body.get('format')!r}")
        if digest(body) != seal:
            raise BadRecord(f"{path}: its digest does not fit its content; it was damaged or edited")
        return body
    except OSError as error:
        raise BadRecord(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise BadRecord(f"{path}: not {what} ({type(error).__name__}: {error})") from None
