"""Two mounts of one folder, each with file locks of its own: NFS (local_lock) and Lustre may be so."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

UNMOUNT = (("fusermount3", "-uz"), ("fusermount", "-uz"), ("umount", "-l"))  # of FUSE 3, of FUSE 2
# a process of another host: it is seen by nobody here, and sees nobody
ELSEWHERE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@contextlib.contextmanager
def two_mounts(folder: Path, *options: str) -> Iterator[tuple[Path, Path]]:
    """Skips the test where bindfs cannot mount; options: of bindfs."""
    if shutil.which("bindfs") is None or not Path("/dev/fuse").exists():
        pytest.skip("bindfs is not installed")
    unmount = next((words for words in UNMOUNT if shutil.which(words[0])), None)
    if unmount is None:
        pytest.skip("nothing can unmount what bindfs mounts")
    below, *made = (folder / name for name in ("below", "one", "other"))
    for place in (below, *made):
        place.mkdir()
    mounted = []
    try:
        for place in made:
            words = ["bindfs", "--no-allow-other", *options, below, place]
            done = subprocess.run(words, capture_output=True, check=False)
            if done.returncode:
                pytest.skip(f"bindfs cannot mount here: {done.stderr.decode()}")
            mounted.append(place)
        yield made[0], made[1]
    finally:
        for place in mounted:
            subprocess.run([*unmount, place], capture_output=True, check=True)


def other_host() -> tuple[str, ...]:
    """Words before a command that make it a process of another host; skips the test where that may not be."""
    if os.geteuid() != 0 or subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process may have a space of process numbers of its own here")
    return ELSEWHERE
