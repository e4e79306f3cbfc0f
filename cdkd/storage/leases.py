"""Leases: who works on what, for processes on several hosts that share a folder.

A lease is a folder with one file, whose name says everything: a token, how often it was renewed, and its
holder. Every change is one rename of that file, or of a folder that holds it, and of several processes that
try one rename the file server lets one succeed. So nothing depends on locks, on clocks, or on what a host has
cached.

A holder renews its leases in the background, and before everything it writes (`confirm`). A lease is taken
over
- at once, where its holder is seen to have ended, or is an earlier start of the same job of Slurm;
- else once it was watched for so many seconds and was not renewed.
A process that was taken for dead and lives on finds its file renamed: `confirm` raises, and it writes
nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdkd.core.errors import CdkdError, LeaseLost
from cdkd.storage.files import draft_folder
from cdkd.storage.owner import SEPARATOR, Owner

SECONDS = 120.0
BEATS = 6  # renewals within these seconds
PAUSE = 0.25  # seconds between looks at a lease of another process
TRIES = 1000  # to claim a lease that others change at the same moment
NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


@dataclass(frozen=True)
class Holder:
    """What the name of a lease's file says.

    beat: how often it was renewed; seconds: of silence after which it may be taken over
    job, restart: of Slurm; - and 0 elsewhere
    """

    owner: Owner
    seconds: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    beat: int = 0
    job: str = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID", "-"))
    restart: int = field(default_factory=lambda: int(os.environ.get("SLURM_RESTART_COUNT", "0")))

    @property
    def text(self) -> str:
        parts = (self.token, self.beat, f"{self.seconds:g}", self.job, self.restart, self.owner.text)
        return SEPARATOR.join(map(str, parts))

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """From what `text` gave; None for anything else."""
        token, beat, seconds, job, restart, *rest = (text.split(SEPARATOR, 5) + [""] * 5)[:6]
        owner = Owner.parse("".join(rest))
        try:
            return None if owner is None else cls(owner, float(seconds), token, int(beat), job, int(restart))
        except ValueError:
            return None

    def gives_way_to(self, other: Holder) -> bool:
        """Whether it has ended, or Slurm has started its job again."""
        again = self.job == other.job != "-" and self.restart < other.restart
        return again or self.owner.has_ended


class Lease:
    """One that this process holds, until it is released or another process takes it over."""

    def __init__(self, place: Path, holder: Holder) -> None:
        self.place, self.holder, self.lost = place, holder, False
        self._change = threading.Lock()

    def renew(self) -> None:
        """Raises `LeaseLost` where another process has taken it over."""
        with self._change:
            renewed = replace(self.holder, beat=self.holder.beat + 1)
            if self.lost or not _renamed(self.place, self.holder, renewed):
                self.lost = True
                raise LeaseLost(f"{self.place.name}: {_taken(self.place)}; nothing was written")
            self.holder = renewed

    def release(self) -> None:
        with self._change, contextlib.suppress(OSError):  # another process has taken it over
            (self.place / self.holder.text).unlink()
            self.place.rmdir()


class Leases:
    """The leases in a folder."""

    def __init__(self, folder: Path, seconds: float = SECONDS) -> None:
        """seconds: of silence after which a lease of this process may be taken over"""
        self.folder, self.seconds = folder, seconds
        self._seen: dict[str, tuple[Holder, float]] = {}  # since when a holder was not seen to renew

    @contextlib.contextmanager
    def hold(
        self,
        name: str,
        *,
        wait: bool,
        log: Callable[[str], None] = print,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Lease | None]:
        """Hold the lease `name`; None at once if another process holds it and `wait` is false.

        log: receives a line if it has to wait; stop: ends the waiting, and the answer is None
        """
        logged = False
        while isinstance(found := self._claim(name), Holder) and wait and not stop():
            if not logged:
                log(f"waiting for {found.owner}, which works on {name}")
                logged = True
            time.sleep(min(PAUSE, self.seconds / BEATS))
        if isinstance(found, Holder):
            yield None
            return
        with _held(found):
            yield found

    def holder(self, name: str) -> Holder | None:
        """Who holds a lease; None where nobody does, or its holder is seen to have ended."""
        found = _read(self.folder / name)
        return None if found is None or found.owner.has_ended else found

    def all(self) -> dict[str, Holder]:
        """Every lease that a process has, by its name."""
        names = sorted(place.name for place in self.folder.glob("[!.]*"))
        return {name: found for name in names if (found := self.holder(name)) is not None}

    def _claim(self, name: str) -> Lease | Holder:
        """The lease, or who holds it."""
        place, mine = self.folder / name, Holder(Owner.me(), self.seconds)
        for _ in range(TRIES):
            found = _read(place)
            if found is None:
                if self._created(place, mine):
                    return Lease(place, mine)
            elif found.gives_way_to(mine) or self._silent(name, found):
                if _renamed(place, found, mine):
                    print(f"{name}: taken over from {found.owner}", flush=True)
                    return Lease(place, mine)
            else:
                return found
        raise CdkdError(f"{place}: cannot be claimed; if it holds files that no lease has, remove it")

    def _created(self, place: Path, mine: Holder) -> bool:
        """Whether the lease was free: a folder takes the place of none or of an empty one alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with draft_folder(self.folder, ".claim-") as draft:
            (draft / mine.text).touch()
            try:
                os.rename(draft, place)
            except OSError as error:
                if error.errno not in NOT_EMPTY:
                    raise
                return False
        return True

    def _silent(self, name: str, found: Holder) -> bool:
        """Whether a holder that cannot be seen from here was watched for long enough and did not renew."""
        if found.owner.is_here:
            return False
        before, since = self._seen.get(name, (None, 0.0))
        if before != found:
            self._seen[name] = (found, time.monotonic())
            return False
        return time.monotonic() - since > found.seconds


def confirm() -> None:
    """Make sure, before something is written, that this process still holds all its leases.

    Raises `LeaseLost`.
    """
    for lease in tuple(_mine):
        lease.renew()


def any_lost() -> bool:
    """Whether another process is known to have taken over a lease of this one."""
    return any(lease.lost for lease in tuple(_mine))


_mine: set[Lease] = set()
os.register_at_fork(after_in_child=_mine.clear)  # they are the parent's


@contextlib.contextmanager
def _held(lease: Lease) -> Iterator[None]:
    """Renew the lease in the background, and release it in the end."""
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(lease, over), name=f"lease {lease.place.name}", daemon=True)
    _mine.add(lease)
    heart.start()
    try:
        yield
    finally:
        _mine.discard(lease)
        over.set()
        lease.release()


def _beat(lease: Lease, over: threading.Event) -> None:
    while not over.wait(lease.holder.seconds / BEATS):
        try:
            lease.renew()
        except LeaseLost as lost:
            if not over.is_set():
                print(lost, file=sys.stderr, flush=True)
            return
        except OSError:  # the file server is away; until it is back nobody else can take it over either
            pass


def _read(place: Path) -> Holder | None:
    """Who holds the lease in this folder; None where there is none."""
    try:
        names = os.listdir(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return next((found for name in names if (found := Holder.parse(name)) is not None), None)


def _renamed(place: Path, before: Holder, after: Holder) -> bool:
    """Whether this process was the one that changed the lease."""
    try:
        os.rename(place / before.text, place / after.text)
    except FileNotFoundError:
        return (place / after.text).exists()  # the answer to a first try was lost on its way
    return True


def _taken(place: Path) -> str:
    found = _read(place)
    return f"{found.owner} has taken over this work" if found else "another process had taken over this work"
