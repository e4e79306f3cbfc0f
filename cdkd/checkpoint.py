"""A run's state at an epoch's edge: written whole, digested, and resumed from; or refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import torch

from cdkd.errors import BadCheckpoint
from cdkd.files import sha256, write_atomically

FORMAT = 1
STATE = re.compile(r"state-\d{5}\.pt")
OURS = re.compile(r"\.?(state-\d{5}\.pt|LAST)(\..*\.tmp)?")


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Keep the state after `epoch` epochs. The pointer moves once the state is on the disk; what it leaves is removed.

    Call it with the run's lock held: it also clears what a killed save left behind.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    name = f"state-{epoch:05d}.pt"
    write_atomically(folder / name, buffer.getvalue())
    pointer = {"format": FORMAT, "file": name, "epoch": epoch, "sha256": sha256(folder / name)}
    write_atomically(folder / "LAST", json.dumps(pointer))
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name not in (name, "LAST"):
            path.unlink()


def load(folder: Path) -> dict[str, Any] | None:
    """The last state, or None where nothing was ever kept; raises `BadCheckpoint` where it cannot be trusted."""
    pointer_path = folder / "LAST"
    if not pointer_path.exists():
        return None
    cure = "remove that folder to train the run from its start"
    try:
        pointer = json.loads(pointer_path.read_text(encoding="utf-8"))
        name, expected, version = pointer["file"], pointer["sha256"], pointer["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{pointer_path}: torn or not a checkpoint's pointer ({type(error).__name__}); {cure}") from None
    if version != FORMAT or not isinstance(name, str) or not STATE.fullmatch(name):
        raise BadCheckpoint(f"{pointer_path}: format {version!r}, file {name!r}; expected format {FORMAT} and state-<epoch>.pt; {cure}")
    path = folder / name
    if path.is_symlink() or not path.is_file() or sha256(path) != expected:
        raise BadCheckpoint(f"{path}: missing or damaged: its digest is not the one noted when it was written; {cure}")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def clear(folder: Path) -> None:
    """Remove the run's states; files that are not ours stay."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if OURS.fullmatch(path.name):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
