"""Checkpoints: the state of a run between or inside epochs, written atomically; the last two are kept.

`LAST` names the states, newest first, each with its digest. A missing or corrupt state is reported, and the
previous one is loaded: randomness is a function of (seed, epoch, step), so that the run still ends with the
same bits.
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
from cdkd.storage.leases import confirm

FORMAT = 2
KEPT = 2
STATE = re.compile(r"state-\d{5}(-\d{6,})?\.pt")
OURS = re.compile(rf"\.?({STATE.pattern}|LAST)(\..*\.tmp)?")
HINT = "remove that folder to train the run from its start"

Noted = list[dict[str, Any]]  # the pointer's states, newest first: file, epoch, sha256


def save(folder: Path, epoch: int, state: dict[str, Any], step: int = 0) -> None:
    """Save the state after `epoch` epochs and `step` steps of the next one.

    The pointer moves once the state is on the disk; older states are then removed. A full disk leaves the
    previous states. Call it with the run locked: it also removes what a killed save left behind. Raises
    `LeaseLost` where another process has taken the run over.
    """
    confirm()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    name = f"state-{epoch:05d}{f'-{step:06d}' if step else ''}.pt"
    before = [
        noted for noted in (_states(folder) if (folder / "LAST").exists() else []) if noted["file"] != name
    ]
    write_atomically(folder / name, content)
    _point(
        folder,
        [{"file": name, "epoch": epoch, "sha256": hashlib.sha256(content).hexdigest()}, *before][:KEPT],
    )


def load(folder: Path) -> dict[str, Any] | None:
    """The last valid state; None where none was ever saved. Raises `BadCheckpoint` if all are damaged.

    Call it with the run locked: states that are not valid are removed.
    """
    if not (folder / "LAST").exists():
        return None
    states = _states(folder)
    for position, noted in enumerate(states):
        content = _valid(folder / noted["file"], noted["sha256"])
        if content is None:
            print(
                f"{folder / noted['file']}: missing or damaged: "
                "its digest is not the one recorded when it was written",
                file=sys.stderr,
                flush=True,
            )
            continue
        if position > 0:
            print(
                f"{folder}: resumes from the previous state, {noted['file']}",
                file=sys.stderr,
                flush=True,
            )
            _point(folder, states[position:])
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state
    raise BadCheckpoint(f"{folder}: none of its {len(states)} states is valid; {HINT}")


def clear(folder: Path) -> None:
    """Remove the run's states; other files stay."""
    with contextlib.suppress(
        OSError
    ):  # it is not there, another process clears it too, or it holds other files
        _clear(folder, set())
        folder.rmdir()


def _states(folder: Path) -> Noted:
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
            f"{path}: damaged or not a checkpoint's pointer ({type(error).__name__}); {HINT}"
        ) from None
    odd = [noted["file"] for noted in found if not STATE.fullmatch(str(noted["file"]))]
    if version != FORMAT or odd or not found:
        raise BadCheckpoint(
            f"{path}: format {version!r}, states {odd or len(found)}; "
            f"expected format {FORMAT} and names like state-00007.pt; {HINT}"
        )
    return found


def _point(folder: Path, states: Noted) -> None:
    """Move the pointer, and remove the states that it no longer names."""
    confirm()
    write_atomically(folder / "LAST", json.dumps({"format": FORMAT, "states": states}))
    _clear(folder, {"LAST", *(str(noted["file"]) for noted in states)})


def _clear(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name not in keep and not path.is_dir():
            path.unlink(missing_ok=True)


def _valid(path: Path, expected: str) -> bytes | None:
    """The file's content, if its digest is as expected."""
    try:
        content = None if path.is_symlink() else path.read_bytes()
    except OSError:
        return None
    return content if content is not None and hashlib.sha256(content).hexdigest() == expected else None
