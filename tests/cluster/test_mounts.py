"""Hosts that share a folder and no file locks: nothing is trained twice, and no living process is robbed."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cdkd.pipeline.doctor.site import Site
from cdkd.pipeline.doctor.store_folder import store_folder
from cdkd.storage.files import draft_folder, write_atomically
from cdkd.storage.leases import Leases
from tests.cluster import paced
from tests.cluster.mounts import other_host, two_mounts
from tests.unit.test_leases import HOLDS
from tests.waiting import PATIENCE, wait_until

PARAMS = """\
experiment: digits
data: {source: digits, train_images: 100}
teacher: {network: resnet8, training: {epochs: 2}}
student: {network: resnet8}
training: {epochs: 6, batch: 32, augmentation: {pad: 1}}
seeds: [0, 1, 2]
methods:
  student: {ce: {weight: 1}, paced: {weight: 1}}
  kd: {ce: {weight: 0.1}, kd: {weight: 0.9, temperature: 4}, paced: {weight: 1}}
"""


def test_the_premise_holds(tmp_path: Path) -> None:
    with (
        two_mounts(tmp_path) as mounts,
        (mounts[0] / "f").open("w") as one,
        (mounts[1] / "f").open() as other,
    ):
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # both have it


def test_a_lease_holds_across_mounts_and_hosts(tmp_path: Path) -> None:
    elsewhere = other_host()
    with two_mounts(tmp_path) as mounts:
        words = [*elsewhere, sys.executable, "-c", HOLDS, str(mounts[0]), "1", "here"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            leases = Leases(mounts[1], 1.0)
            with leases.hold("x", wait=False) as lease:
                assert lease is None
            found = leases.holder("x")
            assert found is not None
            assert not found.owner.is_here
            wait_until(
                lambda: (now := leases.holder("x")) and now.beat > found.beat + 6
            )  # longer than a lease
            with leases.hold("x", wait=False) as lease:
                assert lease is None
            holder.send_signal(signal.SIGKILL)
        with leases.hold("x", wait=True) as lease:
            assert lease is not None


def test_no_draft_of_a_living_writer_is_removed(tmp_path: Path) -> None:
    with two_mounts(tmp_path) as mounts:
        with draft_folder(mounts[0], ".draft-") as draft, draft_folder(mounts[1], ".draft-"):
            (draft / "half").write_text("half")
            write_atomically(mounts[1] / "file", "new")
            assert (mounts[1] / draft.name / "half").read_text() == "half"
        assert [path.name for path in mounts[0].iterdir()] == ["file"]


@pytest.mark.slow
def test_two_hosts_train_nothing_twice(tmp_path: Path) -> None:
    elsewhere = other_host()
    with two_mounts(tmp_path) as mounts:
        clones = [paced.project(tmp_path / name, PARAMS) for name in ("one project", "other project")]
        for clone, mount in zip(clones, mounts, strict=True):
            (clone.folder / "site.yaml").write_text(f"store: {mount}\nlease: 30\n")
        workers = [clones[0].start("cdkd", "work"), clones[1].start(*elsewhere, "cdkd", "work")]
        texts = [worker.communicate(timeout=PATIENCE)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], "\n".join(texts)
        assert sum(text.count("waiting for process") for text in texts) >= 1
        trained = [seed for clone in clones for seed in paced.trained_to_the_end(clone, 6)]
        assert sorted(trained) == ["0", "0", "1", "1", "2", "2"]
        assert len(list((mounts[0] / "store").glob("*/record.json"))) == 7
        assert not [path for path in mounts[0].rglob("*") if "~" in path.name]  # leases, drafts
        for clone in clones:
            assert clone.run("cdkd", "plan").count("2 in the store, none pending") == 3


def test_doctor_says_what_a_folder_cannot_do(tmp_path: Path) -> None:
    with two_mounts(tmp_path, "--rename-deny") as mounts:
        (mounts[0] / "store").mkdir()
        (tmp_path / "site.yaml").write_text(f"store: {mounts[0]}")
        faults = store_folder(Site(tmp_path, quick=True)).faults
        assert [fault.mark for fault in faults] == ["BAD", "BAD"]
        assert faults[0].text.startswith("renames: [Errno 1]")
        assert faults[1].text.startswith("leases: ")
    (tmp_path / "site.yaml").write_text("store: fit")
    (tmp_path / "fit" / "store").mkdir(parents=True)
    verdict = store_folder(Site(tmp_path, quick=True))
    assert (verdict.faults, verdict.summary.startswith(str(tmp_path / "fit"))) == ([], True)
    assert [path.name for path in (tmp_path / "fit").iterdir()] == ["store"]
