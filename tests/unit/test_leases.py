"""Leases: one holder at a time, on whichever host; who was taken for dead and lives on writes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdkd.core.errors import CdkdError, LeaseLost
from cdkd.runs.store import Store
from cdkd.storage import leases
from cdkd.storage.leases import Holder, Leases
from cdkd.storage.owner import Owner
from cdkd.training import checkpoint
from tests.unit.test_store import WEIGHTS, a_record
from tests.waiting import PATIENCE, wait_until

# holds a lease until its input ends; with "elsewhere" it is a process of another host to everybody
HOLDS = """
import sys
from pathlib import Path
from cdkd.storage import leases, owner
place, seconds, where = sys.argv[1:]
if where == "elsewhere":
    owner._system = lambda: "elsewhere"
with leases.Leases(Path(place), float(seconds)).hold("x", wait=True) as lease:
    print("held", flush=True)
    sys.stdin.read()
    try:
        leases.confirm()
    except leases.LeaseLost as lost:
        print(lost)
"""


class Other:
    """Another process that holds the lease x."""

    def __init__(self, folder: Path, seconds: float = 120.0, where: str = "here", **names: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(folder), str(seconds), where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | names,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def ended(self) -> str:
        return self.process.communicate(timeout=PATIENCE)[0]


def free(folder: Path) -> bool:
    with Leases(folder).hold("x", wait=False) as lease:
        return lease is not None


def test_a_living_holder_keeps_it_and_a_dead_ones_is_free_at_once(tmp_path: Path) -> None:
    other = Other(tmp_path)
    assert not free(tmp_path)
    other.process.send_signal(signal.SIGSTOP)  # it renews nothing and lives
    assert not free(tmp_path)
    other.process.kill()
    other.process.wait()
    assert free(tmp_path)


def test_a_number_used_again_is_another_process(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    me = Owner.me()
    (tmp_path / "x" / Holder(me._replace(started=me.started - 1), 1e9).text).touch()
    assert free(tmp_path)


@pytest.mark.slow
def test_a_silent_holder_on_another_host_loses_it_and_one_that_renews_does_not(tmp_path: Path) -> None:
    other = Other(tmp_path, 1.0, "elsewhere")
    waiting = Leases(tmp_path, 1.0)
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        with waiting.hold("x", wait=False) as lease:
            assert lease is None
        time.sleep(0.1)
    other.process.send_signal(signal.SIGSTOP)  # its host is not heard of any more
    lines: list[str] = []
    with waiting.hold("x", wait=True, log=lines.append) as lease:
        assert lease is not None
        assert lines == [f"waiting for process {other.process.pid} on {Owner.me().host}, which works on x"]
        other.process.send_signal(signal.SIGCONT)
        assert f"x: process {os.getpid()} on {Owner.me().host} has taken over this work" in other.ended()
        lease.renew()  # the end of the other one has not touched it


def test_of_many_that_claim_a_dead_ones_lease_one_has_it(tmp_path: Path) -> None:
    """A hundred times: threads, because a process each would take minutes; a lease knows no difference."""
    dead = Owner.me()._replace(pid=2**22 + 1)
    for round_ in range(100):
        place = tmp_path / str(round_)
        if round_ % 2:
            place.mkdir()
            (place / Holder(dead, 120.0).text).touch()
        found: list[object] = []
        start = threading.Barrier(8)

        def claim(place: Path = place, found: list[object] = found, start: threading.Barrier = start) -> None:
            start.wait()
            found.append(Leases(tmp_path)._claim(place.name))

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [type(one).__name__ for one in found].count("Lease") == 1
        assert len(list(place.iterdir())) == 1


def test_slurms_next_start_of_a_job_takes_over_from_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = Other(tmp_path, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for start, taken in (("0", False), ("1", False), ("2", True)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", start)
        assert free(tmp_path) is taken
    assert "another process had taken over this work; nothing was written" in orphan.ended()


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[Store]:
    """The store of a process that holds a lease, and does not know yet that it lost it."""
    store = Store(tmp_path)
    with store.lock("x", wait=False) as lease:
        assert lease is not None
        checkpoint.save(store.checkpoint("a"), 1, {"epoch": 1})
        shutil.rmtree(lease.place)
        yield store


def test_who_lost_a_lease_puts_nothing_and_saves_nothing(orphan: Store) -> None:
    before = sorted(path for path in orphan.folder.parent.rglob("*"))
    with pytest.raises(LeaseLost, match="nothing was written"):
        checkpoint.save(orphan.checkpoint("a"), 2, {"epoch": 2})
    with pytest.raises(LeaseLost):
        orphan.put(a_record(), WEIGHTS)
    assert leases.any_lost()
    assert orphan.get(a_record().fingerprint) is None
    after = sorted(path for path in orphan.folder.parent.rglob("*"))
    assert [path for path in after if path not in before] == [orphan.folder]  # empty


def test_it_is_noticed_while_training_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Leases(tmp_path, 0.3).hold("x", wait=False) as lease:
        assert lease is not None
        time.sleep(0.3)
        assert lease.holder.beat > 0
        shutil.rmtree(lease.place)
        wait_until(leases.any_lost)
    wait_until(lambda: "nothing was written" in capfd.readouterr().err)


def test_a_fork_does_not_touch_the_leases_of_its_parent(tmp_path: Path) -> None:
    with Leases(tmp_path).hold("x", wait=False) as lease:
        assert lease is not None
        if (child := os.fork()) == 0:
            leases.confirm()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        lease.renew()


def test_a_folder_with_other_files_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").touch()
    with pytest.raises(CdkdError, match="holds files that no lease has"):
        free(tmp_path)
