"""A checkpoint is the saved state or the previous one, or it is refused; it never runs code."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdkd.core.errors import BadCheckpoint
from cdkd.training import checkpoint


def state(epoch: int) -> dict[str, object]:
    return {"model": {"w": torch.arange(50.0) * epoch}, "history": [{"epoch": e} for e in range(epoch)]}


def epoch_of(folder: Path) -> int | None:
    found = checkpoint.load(folder)
    if found is None:
        return None
    assert torch.equal(found["model"]["w"], torch.arange(50.0) * len(found["history"]))
    return len(found["history"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for epoch in (1, 2, 3):
        checkpoint.save(tmp_path / "run", epoch, state(epoch))
    return tmp_path / "run"


def newest(folder: Path) -> Path:
    return folder / "state-00003.pt"


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str, ...]]:
        return os.mkdir, (str(self.path),)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "last byte missing": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit flipped": lambda path: path.write_bytes(
        path.read_bytes()[:700] + bytes([path.read_bytes()[700] ^ 4]) + path.read_bytes()[701:]
    ),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another format": lambda path: path.write_text("{}"),
    "malicious": lambda path: path.write_bytes(pickle.dumps(Evil(path.parent.parent / "executed"))),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link out": lambda path: (
        path.rename(path.parent.parent / "outside"),
        path.symlink_to(path.parent.parent / "outside"),
    ),
}


def test_the_last_two_are_kept(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["LAST", "state-00002.pt", "state-00003.pt"]
    assert epoch_of(folder) == 3
    assert epoch_of(folder.parent / "never") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_passed_over_for_the_one_before(
    damage: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](newest(folder))
    assert epoch_of(folder) == 2
    output = capsys.readouterr().err
    assert "state-00003.pt: missing or damaged" in output
    assert "resumes from the previous state, state-00002.pt" in output
    assert not (folder.parent / "executed").exists()
    if damage != "a folder":
        checkpoint.save(folder, 3, state(3))  # trained again, it takes its place
        assert epoch_of(folder) == 3


@pytest.mark.parametrize("damage", DAMAGES)
def test_with_none_sound_it_says_so_and_never_starts_anew_in_silence(damage: str, folder: Path) -> None:
    for path in (newest(folder), folder / "state-00002.pt"):
        DAMAGES[damage](path)
        (folder.parent / "outside").unlink(missing_ok=True)
    with pytest.raises(BadCheckpoint, match="none of its 2 states is valid; remove that folder"):
        checkpoint.load(folder)
    assert not (folder.parent / "executed").exists()


POINTERS = {
    "torn": '{"fil',
    "empty": "",
    "a list": "[]",
    "null": "null",
    "older format": json.dumps({"format": 1, "file": "state-00003.pt", "epoch": 3, "sha256": "0" * 64}),
    "newer format": json.dumps({"format": 3, "states": []}),
    "no states": json.dumps({"format": 2, "states": []}),
    "a way out": json.dumps({"format": 2, "states": [{"file": "../../x", "epoch": 3, "sha256": "0" * 64}]}),
    "wrong types": json.dumps({"format": 2, "states": [{"file": 3, "epoch": "x", "sha256": None}]}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("pointer", POINTERS)
def test_a_pointer_that_is_none_is_refused(pointer: str, folder: Path) -> None:
    (folder / "LAST").write_text(POINTERS[pointer])
    with pytest.raises(BadCheckpoint, match=r"LAST: (damaged|format).*remove that folder"):
        checkpoint.load(folder)


def test_what_a_killed_save_left_is_removed_and_other_files_are_not(folder: Path) -> None:
    (folder / ".state-00004.pt.x1.tmp").write_bytes(b"half")
    (folder / "state-00001.pt").write_bytes(b"old")
    (folder / "notes.txt").write_text("mine")
    checkpoint.save(folder, 4, state(4))
    assert sorted(path.name for path in folder.iterdir()) == [
        "LAST",
        "notes.txt",
        "state-00003.pt",
        "state-00004.pt",
    ]
    checkpoint.clear(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_what_was_there(folder: Path) -> None:
    """A real limit of the kernel's on a real process, in place of a full disk."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code = f"""
import resource, signal, torch
from pathlib import Path
from cdkd.training import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    checkpoint.save(Path({str(folder)!r}), 4, {{"model": torch.zeros(5000)}})
except OSError as error:
    print("refused:", error.strerror)
"""
    assert resource.RLIM_INFINITY  # the parent is not limited
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused: File too large\n"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
