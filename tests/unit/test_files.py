"""Files that are whole or absent, whoever is killed; what killed writers left goes, what writers at work hold
stays.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cdkd.storage.files import draft_folder, left_behind, write_atomically
from cdkd.storage.owner import Owner

WRITER = """
import sys
from pathlib import Path
from cdkd.storage import files
def stop(*words):
    print("stopped", flush=True)
    sys.stdin.read()  # until it is killed, or the test's process ends
files.os.replace = stop
place = Path(sys.argv[1])
if place.suffix:
    files.write_atomically(place, "whole")
with files.draft_folder(place, ".draft-") as folder:
    (folder / "half").touch()
    stop()
"""


def begun(place: Path) -> subprocess.Popen[str]:
    """A writer that has written, and has not yet renamed."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "stopped\n"
    return writer


def test_a_killed_writers_file_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    place = tmp_path / "a [file].json"
    place.write_text("old")
    dead, alive = begun(place), begun(place)
    dead.kill()
    dead.wait()
    assert place.read_text() == "old"
    write_atomically(place, "new")
    assert place.read_text() == "new"
    (left,) = (path for path in tmp_path.iterdir() if path != place)
    assert left.read_text() == "whole"
    assert not left_behind(left)
    alive.kill()
    alive.wait()
    assert left_behind(left)
    write_atomically(place, "newer")
    assert list(tmp_path.iterdir()) == [place]


def test_a_killed_makers_folder_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    dead, alive = begun(tmp_path), begun(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    dead.kill()
    dead.wait()
    with draft_folder(tmp_path, ".draft-") as folder:
        assert len([path for path in tmp_path.iterdir() if path != folder]) == 1
    alive.kill()
    alive.wait()
    with draft_folder(tmp_path, ".draft-") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_a_draft_of_another_host_stays_for_a_day_after_its_last_byte(tmp_path: Path) -> None:
    place = tmp_path / "file"
    other = Owner.me()._replace(host="node7", system="elsewhere", pid=1)
    young, old = (tmp_path / f".file.{other.text}~{name}.tmp" for name in ("young", "old"))
    folder = tmp_path / f".file.{other.text}~x.tmp"
    folder.mkdir()
    for path in (young, old, folder / "a"):
        path.touch()
    for path in (old, folder):
        os.utime(path, (time.time() - 90_000,) * 2)
    write_atomically(place, "new")
    assert sorted(tmp_path.iterdir()) == sorted([place, young, folder])  # in the folder something is new


def test_an_error_leaves_the_old_file_alone(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(place, "\ud800")
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]
