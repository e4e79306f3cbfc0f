"""`training.ranks` by the real commands: a run starts its own ranks, and torchrun's are used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cdkd.core.errors import RankLost
from tests.clone import Clone
from tests.cluster import paced
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

PARAMS = """\
experiment: digits
data: {source: digits, train_images: 100}
teacher: {network: resnet8, training: {epochs: 2}}
student: {network: resnet8}
training: {recipe: short, epochs: 3, batch: 32, learning_rate: 0.05, augmentation: {pad: 1}, ranks: 2}
seeds: [0]
methods:
  student: {ce: {weight: 1}, paced: {weight: 1}}
  rkd: {ce: {weight: 1}, rkd: {weight: 1}}
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
WORK = ("cdkd", "work")


def results(clone: Clone) -> dict[str, tuple[str, str]]:
    """Digest of the weights and history of each run."""
    records = [clone.stored_record(name) for name in clone.stored()]
    return {one["method"]: (one["result"]["weights_sha256"], str(one["history"])) for one in records}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = paced.project(tmp_path_factory.mktemp("ranks") / "undisturbed", PARAMS)
    clone.run(*WORK)
    assert set(results(clone)) == {"teacher", "student", "rkd"}
    return clone


def ranks_of(clone: Clone) -> set[str]:
    """The processes that have trained the student."""
    rows = (clone.folder / "steps").read_text().splitlines()
    return {row.split()[0] for row in rows}


def is_running(process: str) -> bool:
    stat = Path("/proc", process, "stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_run_starts_its_own_ranks(undisturbed: Clone) -> None:
    assert len(ranks_of(undisturbed)) == 2
    alone = undisturbed.folder.parent / "alone"
    clone = paced.project(alone, PARAMS.replace(", ranks: 2", ""))
    clone.run(*WORK)
    ours, theirs = results(undisturbed), results(clone)
    assert all(ours[name] != theirs[name] for name in ours)  # BatchNorm sees half a batch


def test_torchrun_starts_them_too_and_the_bits_are_the_same(undisturbed: Clone, tmp_path: Path) -> None:
    clone = paced.project(tmp_path / "torchrun", PARAMS)
    clone.run(*TORCHRUN, *WORK)
    assert len(ranks_of(clone)) == 2
    assert results(clone) == results(undisturbed)


def test_stopped_inside_an_epoch_it_continues_with_the_same_bits(undisturbed: Clone, tmp_path: Path) -> None:
    """As Slurm does it: a signal to rank 0 alone."""
    clone = paced.project(tmp_path / "stopped", PARAMS)
    pace, steps = clone.folder / "pace", clone.folder / "steps"
    pace.write_text("1")
    process = clone.start(*WORK)
    wait_until(steps.exists, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "it is asked to stop: a checkpoint follows" in said
    states = list(clone.folder.glob(".cdkd/checkpoints/*/state-00000-*.pt"))
    assert len(states) == 2
    pace.unlink()
    clone.run(*WORK)
    assert results(clone) == results(undisturbed)


def test_torchrun_that_is_stopped_inside_an_epoch_continues_too(undisturbed: Clone, tmp_path: Path) -> None:
    """It passes the signal on to all ranks."""
    clone = paced.project(tmp_path / "stopped", PARAMS)
    pace, steps = clone.folder / "pace", clone.folder / "steps"
    pace.write_text("1")
    process = clone.start(*TORCHRUN, *WORK)
    wait_until(steps.exists, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode != 0
    assert "it is asked to stop: a checkpoint follows" in said
    assert "terminate called" not in said
    assert not any(map(is_running, ranks_of(clone)))
    assert len(list(clone.folder.glob(".cdkd/checkpoints/*/state-00000-*.pt"))) == 2
    pace.unlink()
    clone.run(*TORCHRUN, *WORK)
    assert results(clone) == results(undisturbed)


def test_it_is_verified_and_carried_to_another_machine(undisturbed: Clone, tmp_path: Path) -> None:
    undisturbed.run("cdkd", "distill", "rkd")
    assert "rkd seed 0: bit-identical: 3 epochs" in undisturbed.run("cdkd", "verify", "rkd")
    clone = paced.project(tmp_path / "carried", PARAMS)
    clone.run("cdkd", "prepare")
    clone.run("cdkd", "plan", "--export", "plan.json")
    said = clone.run(sys.executable, "-m", "cdkd.cluster.worker", "plan.json", "--out", "out")
    assert said.splitlines()[-1] == "complete"
    assert len(ranks_of(clone)) == 2
    clone.run("cdkd", "import", "out")
    assert results(clone) == results(undisturbed)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_leaves_no_process_and_the_run_continues(
    rank: int, undisturbed: Clone, tmp_path: Path
) -> None:
    clone = paced.project(tmp_path / "killed", PARAMS)
    (clone.folder / "pace").write_text("1")
    (clone.folder / "site.yaml").write_text("step_checkpoint: 0\n")
    process = clone.start(*WORK)
    steps = clone.folder / "steps"
    wait_until(lambda: steps.exists() and " 0 0 1\n" in steps.read_text(), process)  # the second step
    (other,) = ranks_of(clone) - {str(process.pid)}
    os.kill(int(other) if rank else process.pid, signal.SIGKILL)
    said = process.communicate()[0]  # until both have closed the output
    assert not is_running(other)
    if rank:
        assert process.returncode == RankLost.code
        line = "rank 1 has ended with code -9; the same command continues from the last checkpoint"
        assert said.splitlines().count(line) == 1
        assert "Traceback" not in said
    (clone.folder / "pace").unlink()
    clone.run(*WORK)
    assert results(clone) == results(undisturbed)


def test_a_rank_that_cannot_start_ends_the_run_with_one_line(tmp_path: Path) -> None:
    words = "import sys; from cdkd.training import launch; sys.executable = 'false'; launch._started(2)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    line = "rank 1 has ended with code 1; the same command continues from the last checkpoint"
    assert done.stderr.splitlines() == [line]


# an object that Python removes in its last steps, which aborts the process as the library sometimes does then
ENDS = """
import os, signal, sys, time
from cdkd.cli import _terminated
from cdkd.core.processes import end_with
class Late:
    def __del__(self, abort=os.abort):
        abort()
late = Late()
def main():
    if "alone" not in sys.argv:
        from cdkd.training import launch
        launch._started(2).busy = "busy" in sys.argv
        print(launch._group.started.processes[0].pid)
    signal.signal(signal.SIGTERM, _terminated)
    END
end_with(main)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("return 3", 3),
        ("sys.exit(75)", 75),
        ("raise ValueError('odd')", 1),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 143),
    ],
)
@pytest.mark.parametrize("busy", ["idle", "busy"])
def test_however_it_ends_it_has_its_own_exit_code(end: str, code: int, busy: str) -> None:
    words = [sys.executable, "-c", ENDS.replace("END", end)]
    done = subprocess.run([*words, busy], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("ValueError: odd" in done.stderr) == (code == 1)
    assert not is_running(done.stdout.strip())
    assert subprocess.run([*words, "alone"], capture_output=True, check=False).returncode == -signal.SIGABRT


def test_torchrun_with_another_number_is_refused(tmp_path: Path) -> None:
    clone = paced.project(tmp_path / "refused", PARAMS.replace(", ranks: 2", ""))
    said = clone.run(*TORCHRUN, *WORK, code=None)
    assert "torchrun has started 2 processes, and training.ranks is 1; expected the same" in said
    assert "Traceback (most recent call last)" not in said.split("torchrun has started")[0]
