"""A run's state at an epoch's edge: written whole, digested, and resumed from; the last two are kept.

`LAST` names the states, newest first, each with its digest. A state that is missing or damaged is said and passed over
for the one before it: randomness is a function of (seed, epoch, step), so that the end is the same bits, later.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from cdkd.core.errors import BadCheckpoint
from cdkd.storage.files import write_atomically

FORMAT = 2
KEPT = 2
STATE = re.compile(r"state-\d{5}\.pt")
OURS = re.compile(r"\.?(state-\d{5}\.pt|LAST)(\..*\.tmp)?")
CURE = "remove that folder to train the run from its start"

Noted = list[dict[str, Any]]  # the pointer's states, newest first: file, epoch, sha256


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Keep the state after `epoch` epochs. The pointer moves once the state is on the disk; what it leaves is removed.

    Call it with the run's lock held: it also clears what a killed save left behind. A full disk leaves the states before.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    name = f"state-{epoch:05d}.pt"
    before = [
        noted for noted in (_noted(folder) if (folder / "LAST").exists() else []) if noted["file"] != name
    ]
    write_atomically(folder / name, content)
    _point(
        folder,
        [{"file": name, "epoch": epoch, "sha256": hashlib.sha256(content).hexdigest()}, *before][:KEPT],
    )


def load(folder: Path) -> dict[str, Any] | None:
    """The last sound state, or None where nothing was ever kept; raises `BadCheckpoint` where none can be trusted.

    With the run's lock held: states that are not sound are let go of.
    """
    if not (folder / "LAST").exists():
        return None
    states = _noted(folder)
    for place, noted in enumerate(states):
        content = _sound(folder / noted["file"], noted["sha256"])
        if content is None:
            print(
                f"{folder / noted['file']}: missing or damaged: its digest is not the one noted when it was written",
                file=sys.stderr,
                flush=True,
            )
            continue
        if place > 0:
            print(
                f"{folder}: goes on from the state before, after epoch {noted['epoch'] - 1}",
                file=sys.stderr,
                flush=True,
            )
            _point(folder, states[place:])
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state
    raise BadCheckpoint(f"{folder}: none of its {len(states)} states is sound; {CURE}")


def clear(folder: Path) -> None:
    """Remove the run's states; files that are not ours stay."""
    with contextlib.suppress(
        OSError
    ):  # it is not there, another process clears it too, or it holds other files
        _clear(folder, set())
        folder.rmdir()


def _noted(folder: Path) -> Noted:
    path = folder / "LAST"
    try:
        pointer = json.loads(path.read_text(encoding="utf-8"))
        version, states = pointer["format"], pointer["states"]
        found = (
            [
                {"file": str(noted["file"]), "epoch": int(noted["epoch"]), "sha256": str(noted["sha256"])}
                for noted in states
            ]
            if version == FORMAT
            else []
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadCheckpoint(
            f"{path}: torn or not a checkpoint's pointer ({type(error).__name__}); {CURE}"
        ) from None
    odd = [noted["file"] for noted in found if not STATE.fullmatch(str(noted["file"]))]
    if version != FORMAT or odd or not found:
        raise BadCheckpoint(
            f"{path}: format {version!r}, states {odd or len(found)}; expected format {FORMAT} and names like state-00007.pt; {CURE}"
        )
    return found


def _point(folder: Path, states: Noted) -> None:
    """Move the pointer, and remove what it names no more."""
    write_atomically(folder / "LAST", json.dumps({"format": FORMAT, "states": states}))
    _clear(folder, {"LAST", *(str(noted["file"]) for noted in states)})


def _clear(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name not in keep and not path.is_dir():
            path.unlink(missing_ok=True)


def _sound(path: Path, expected: str) -> bytes | None:
    """The file's content, if it is the one that was written here."""
    try:
        content = None if path.is_symlink() else path.read_bytes()
    except OSError:
        return None
    return content if content is not None and hashlib.sha256(content).hexdigest() == expected else None
