"""Several machines, for real: a Slurm of three nodes on this host, tasks that are preempted and run out of
time, a node that dies and leaves its process alive. The results are those of an undisturbed local run.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdkd.runs.store import Store
from tests.clone import Clone
from tests.cluster import paced
from tests.cluster.slurm_here import Cluster, why_not
from tests.waiting import PATIENCE, wait_until

PARAMS = """\
experiment: digits
data: {source: digits, train_images: 100}
teacher: {network: resnet8, training: {epochs: 2, milestones: [1]}}
student: {network: resnet8}
training: {epochs: 40, batch: 32, learning_rate: 0.05, milestones: [30], augmentation: {pad: 1}}
seeds: [0, 1]
methods:
  student: {ce: {weight: 1}, paced: {weight: 1}}
  kd: {ce: {weight: 0.1}, kd: {weight: 0.9, temperature: 4}, paced: {weight: 1}}
"""
SITE = """\
lease: 30
slurm: {time: 1, notice: 60, restarts: 3}
"""
RANKS = """\
experiment: digits
data: {source: digits, train_images: 600}
teacher: {network: resnet8, training: {epochs: 2, milestones: [1]}}
student: {network: resnet8}
training: {epochs: 2, batch: 32, learning_rate: 0.05, augmentation: {pad: 1}, ranks: 2}
seeds: [3]
methods:
  student: {ce: {weight: 1}, paced: {weight: 1}}
  rkd: {ce: {weight: 1}, rkd: {weight: 1}}
"""


def finished(clone: Clone) -> dict[str, dict[str, Any]]:
    """Every run of the store: what is a function of its fingerprint."""
    parts = ("config", "history", "result", "status", "method", "seed")
    records = {key: clone.stored_record(key) for key in clone.stored()}
    return {key: {part: record[part] for part in parts} for key, record in records.items()}


@pytest.fixture
def cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """Of three nodes with a core each; the parameter: numbers of other ones."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Cluster(tmp_path / "slurm", *getattr(request, "param", (3,))) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


def log_of(clone: Clone, seed: int) -> str:
    return "".join(
        path.read_text() for path in (clone.folder / ".cdkd/slurm").glob(f"*students-*_{seed}.log")
    )


def node_of(cluster: Cluster, seed: int) -> str:
    """Where the task of a seed runs."""
    rows = map(str.split, cluster.call("squeue", "-h", "--array", "-t", "R", "-o", "%j %K %N").splitlines())
    return next(node for name, number, node in rows if name.endswith("students") and number == str(seed))


def files(clone: Clone) -> dict[Path, int]:
    """The store, the checkpoints and the leases, and when each file was written.

    Not the cache of the teacher's outputs: its rows have checksums, and all who write them write the same.
    """
    places = [clone.folder / ".cdkd" / name for name in ("store", "checkpoints", "leases")]
    paths = [path for place in places for path in place.rglob("*")]
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


@pytest.mark.slow
def test_three_nodes_with_every_accident_give_one_machines_bits(cluster: Cluster, tmp_path: Path) -> None:
    alone, clone = paced.project(tmp_path / "alone", PARAMS), paced.project(tmp_path / "shared", PARAMS)
    (clone.folder / "site.yaml").write_text(SITE)
    pace = clone.folder / "pace"
    pace.write_text("0.15")
    text = clone.run("cdkd", "submit")
    assert re.search(r"digits: teacher is job \d+\n", text)
    assert re.search(r"digits: students \(2 tasks\) is job \d+, after \d+\n", text)
    assert re.search(r"digits: report is job \d+, after \d+, \d+\n", text)
    assert "4 tasks are queued" in clone.run("cdkd", "submit")
    undisturbed = alone.start("sh", "-c", "cdkd prepare && cdkd teacher && cdkd distill student")

    leases, first, second = Store(clone.folder).leases, "digits-students-seed-0", "digits-students-seed-1"
    wait_until(lambda: leases.holder(first) and leases.holder(second))
    status = clone.run("cdkd", "submit", "--status").splitlines()
    assert re.fullmatch(r"teacher +stored +not queued", status[0])
    assert re.fullmatch(r"seed 0 +0 of 2 stored +job \d+_0 running \(node\d\)", status[1])

    orphan = leases.holder(first)
    assert orphan is not None
    cluster.kill_node(node_of(cluster, 0))
    cluster.call("sbatch", "-p", "urgent", "-w", node_of(cluster, 1), "--output=/dev/null", "--wrap", "true")
    wait_until(lambda: (found := leases.holder(first)) and found.beat > orphan.beat)  # it lives on
    os.kill(orphan.owner.pid, signal.SIGSTOP)  # and is slow to notice
    wait_until(lambda: "DUE TO PREEMPTION" in log_of(clone, 1))
    wait_until(lambda: "taken over from process" in log_of(clone, 0))
    wait_until(lambda: "its time is over" in log_of(clone, 0) + log_of(clone, 1))
    pace.write_text("0")
    wait_until(lambda: len(clone.stored()) == 5)

    wait_until(lambda: not cluster.call("squeue", "-h"))  # the report, too
    before = files(clone)
    os.kill(orphan.owner.pid, signal.SIGCONT)
    wait_until(lambda: orphan.owner.has_ended)
    assert files(clone) == before
    assert "nothing was written" in log_of(clone, 0)
    assert undisturbed.wait(PATIENCE) == 0, undisturbed.communicate()[0]
    assert finished(clone) == finished(alone)
    assert sorted(paced.trained_to_the_end(clone, 40)) == ["0", "0", "1", "1"]
    assert "kd" in (clone.folder / "reports/digits/tables.txt").read_text()
    assert "everything is stored" in clone.run("cdkd", "submit")
    print_table(clone)
    other_ends(clone, cluster)


def print_table(clone: Clone) -> None:
    """For the documentation; `pytest -s` shows it."""
    events = {
        "end of time": "its time is over",
        "preempted": "DUE TO PREEMPTION",
        "taken over from a dead node": "taken over from process",
    }
    columns = [
        "seed",
        *events,
        "orphans that ended without a write",
        "runs",
        "of which the last step was trained",
    ]
    print(f"\n| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for seed in ("0", "1"):
        log = log_of(clone, int(seed))
        counts = [str(log.count(text)) for text in events.values()]
        orphans = int("nothing was written" in log)
        stored = sum(str(record["seed"]) == seed for record in finished(clone).values())
        trained = paced.trained_to_the_end(clone, 40).count(seed)
        teacher = int(seed == "0")  # its seed is 0
        print(f"| {seed} | {' | '.join(counts)} | {orphans} | {stored - teacher} | {trained} times |")


def other_ends(clone: Clone, cluster: Cluster) -> None:
    """What is cancelled is not requeued and keeps a checkpoint; bad input is one line, and not requeued."""
    before = clone.stored()
    (clone.folder / "pace").write_text("0.15")
    clone.params(PARAMS.replace("weight: 0.9", "weight: 0.8").replace("seeds: [0, 1]", "seeds: [1]"))
    assert "students (1 tasks)" in clone.run("cdkd", "submit")
    bad = clone.folder / "bad.log"
    wrapped = f"exec {sys.executable} -m cdkd work --task 9"
    cluster.call("sbatch", "--requeue", f"--chdir={clone.folder}", f"--output={bad}", "--wrap", wrapped)
    wait_until(lambda: Store(clone.folder).leases.holder("digits-students-seed-1"))
    wait_until(lambda: " 1 1 2\n" in (clone.folder / "steps").read_text().partition(" 1 39 2\n")[2])
    assert "2 tasks cancelled; what is finished" in clone.run("cdkd", "submit", "--cancel")
    assert "report" in clone.run("cdkd", "submit", "--follow")  # returns, as nothing is queued any more
    assert bad.read_text().splitlines() == [
        "task '9'; expected teacher, a number from 0 to 0 (of a seed), study:NAME or report"
    ]
    assert clone.stored() == before
    assert list((clone.folder / ".cdkd" / "checkpoints").glob("*/LAST"))


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [(2, 2)], indirect=True)
def test_ranks_that_are_preempted_inside_an_epoch_give_an_undisturbed_runs_bits(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Two nodes of two cores; each task has two ranks."""
    alone, clone = paced.project(tmp_path / "alone", RANKS), paced.project(tmp_path / "shared", RANKS)
    pace, steps = clone.folder / "pace", clone.folder / "steps"
    pace.write_text("1")
    clone.run("cdkd", "submit")
    undisturbed = alone.start("cdkd", "work")
    wait_until(steps.exists)
    assert undisturbed.wait(PATIENCE) == 0, undisturbed.communicate()[0]
    rows = cluster.call("squeue", "-h", "--array", "-t", "R", "-o", "%j %C %N").split()
    assert rows[0].endswith("students")
    assert rows[1] == "2"  # cores
    cluster.call(
        "sbatch", "-p", "urgent", "-w", rows[2], "-c", "2", "--output=/dev/null", "--wrap", "sleep 5"
    )
    wait_until(lambda: "DUE TO PREEMPTION" in log_of(clone, 0))
    wait_until(lambda: Store(clone.folder).leases.holder("digits-students-seed-3") is None)
    before = steps.read_text().splitlines()
    (saved,) = {path.name for path in clone.folder.glob(".cdkd/checkpoints/*/state-*.pt")}
    assert before[-1].split()[2:] == [str(epoch := int(saved.split("-")[1])), str(len(before) // 2 - 1)]
    assert epoch == 0
    assert len(before) < 2 * 17  # of two ranks; fewer than the epoch has
    pace.unlink()
    wait_until(lambda: not cluster.call("squeue", "-h"))
    after = steps.read_text().splitlines()[len(before) :]
    assert after[0].split()[2:] == ["0", str(len(before) // 2)]  # the next step
    assert {len({row.split()[0] for row in rows}) for rows in (before, after)} == {2}
    assert len(clone.stored()) == 3
    assert finished(clone) == finished(alone)
    assert all(record["config"]["training"]["ranks"] == 2 for record in finished(clone).values())
