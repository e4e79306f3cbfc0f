"""What the file system under the store can do: a store for several hosts depends on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from cdkd.core.errors import CdkdError
from cdkd.pipeline.doctor.site import Fault, Mark, Site, Verdict
from cdkd.storage.files import draft_folder
from cdkd.storage.leases import NOT_EMPTY, Leases

ELSEWHERE = "another file system for the store: `store` in site.yaml"
CLOCKS = 60.0  # seconds by which clocks of hosts may differ without a line here


Finding = tuple[Mark, str, str] | None  # mark, text and hint of a fault


def store_folder(site: Site) -> Verdict:
    """Each ability is tried in a folder of its own, which is removed."""
    place = site.store.folder
    if not place.is_dir():
        return Verdict("no store yet", [])
    try:
        with draft_folder(place.parent, ".abilities-") as folder:
            faults = [fault for ability in ABILITIES if (fault := _tried(ability, folder)) is not None]
    except OSError as error:
        hint = "a folder that may be written; `store` in site.yaml names another"
        return Verdict("", [Fault("BAD", f"{place.parent}: {error.strerror}", hint)])
    summary = f"{place.parent}: renames, exclusive creation, leases, times, upper and lower case as needed"
    return Verdict(summary, faults)


def _tried(ability: Callable[[Path], Finding], folder: Path) -> Fault | None:
    try:
        found = ability(folder)
    except (OSError, CdkdError) as error:
        found = ("BAD", f"{ability.__name__.replace('_', ' ')}: {error}", ELSEWHERE)
    return None if found is None else Fault(*found)


def exclusive_creation(folder: Path) -> Finding:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(folder / "one", flags))
    with contextlib.suppress(FileExistsError):
        os.close(os.open(folder / "one", flags))
        return "BAD", "a file that is there is created again", ELSEWHERE
    return None


def renames(folder: Path) -> Finding:
    """A folder replaces an empty one, and no other."""
    for name in ("full", "other"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    try:
        os.rename(folder / "full", folder / "other")
    except OSError as error:
        if error.errno not in NOT_EMPTY:
            raise
    else:
        return "BAD", "a folder replaces one that holds files: finished runs are not safe", ELSEWHERE
    (folder / "other" / "file").unlink()
    os.rename(folder / "full", folder / "other")
    return None


def leases(folder: Path) -> Finding:
    with Leases(folder / "leases").hold("one", wait=False) as lease:
        assert lease is not None
        lease.renew()
        with Leases(folder / "leases").hold("one", wait=False) as second:
            if second is not None:
                return "BAD", "two processes hold one lease", ELSEWHERE
    return None


def times(folder: Path) -> Finding:
    (folder / "now").touch()
    apart = abs((folder / "now").stat().st_mtime - time.time())
    if apart > CLOCKS:
        text = f"its clock and this machine's are {apart:.0f} s apart: times in listings mislead"
        return "warn", text, "set the clocks (NTP); leases do not depend on them"
    return None


def upper_and_lower_case(folder: Path) -> Finding:
    (folder / "case").touch()
    if (folder / "CASE").exists():
        hint = "give methods names that differ in more than case"
        return "warn", "it takes upper and lower case for the same", hint
    return None


def flock(folder: Path) -> Finding:
    """The store does without; MLflow's file and that of a search do not."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            hint = "`tracking` in site.yaml for MLflow, a study's `storage` in PostgreSQL"
            return "warn", f"it has no locks ({error.strerror}): the store needs none, but SQLite does", hint
    return None


ABILITIES = (exclusive_creation, renames, leases, times, upper_and_lower_case, flock)
