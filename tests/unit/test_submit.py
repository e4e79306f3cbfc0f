"""What `cdkd submit` writes, and what a task does when it is asked to stop, without Slurm itself."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdkd.cluster import slurm
from cdkd.cluster.slurm import Job
from cdkd.cluster.stop import Stop
from cdkd.config import site
from cdkd.config.params import load
from cdkd.core.errors import BadParams, CdkdError
from cdkd.core.run_spec import RunSpec
from cdkd.pipeline import submit, work
from cdkd.runs.store import Store
from tests.waiting import PATIENCE

PARAMS = """\
experiment: tiny
data: {source: digits, train_images: 100}
teacher: {network: resnet8}
student: {network: resnet8}
training: {epochs: 2}
seeds: [3, 7]
methods:
  student: {ce: {weight: 1}}
  kd: {ce: {weight: 1}, kd: {weight: 1, temperature: 4}}
search:
  tune: {base: kd, method: tuned, trials: 2, space: {kd.weight: {low: 0.1, high: 2}}}
"""
SITE = """\
slurm:
  partition: gpu
  time: 4:00:00
  gpus: 1
  parallel: 2
  setup: [module load cuda]
  extra: [--constraint=a100&ib]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my study; touch harm $(touch harm)"
    folder.mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "site.yaml").write_text(SITE)
    return folder


@pytest.fixture
def stop() -> Iterator[Stop]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield Stop()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_scripts_of_an_experiment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # Slurm is not asked
    lines = list(submit.dry_run(project))
    headings = [line for line in lines if line.startswith("# ")]
    assert headings == [
        "# teacher",
        "# students, after teacher",
        "# study-tune, after teacher",
        "# tuned, after study-tune",
        "# report, after teacher, students, study-tune, tuned",
    ]
    students = lines[lines.index("# students, after teacher") + 1]
    for option in (
        "--array=0,1%2",
        "--requeue",
        "--open-mode=append",
        "--partition=gpu",
        "--time=4:00:00",
        "--signal=B:USR1@300",
        "--gpus=1",
        "--constraint=a100&ib",
    ):
        assert f"#SBATCH {option}\n" in students
    assert "\nmodule load cuda\nexec " in students
    report = lines[-1]
    assert "--gpus" not in report
    assert "--time" not in report
    assert report.splitlines()[-1].endswith("--task report")


def test_of_a_rule_the_seeds_of_the_next_look_are_submitted(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    rule = "{at_least: 3, at_most: 9, until: decided, comparisons: [[kd, student]], equivalence: 1}"
    (project / "params.yaml").write_text(PARAMS.replace("[3, 7]", rule))
    scripts = [line for line in submit.dry_run(project) if "#SBATCH --array" in line]
    assert all("#SBATCH --array=0,1,2%2\n" in script for script in scripts)
    assert len(scripts) == 2  # students, tuned
    params = load(project / "params.yaml")
    assert work._seeds(params, "8") == (8,)  # a task of a later look
    assert work._seeds(params, None) == (0, 1, 2)


def test_no_text_of_a_file_reaches_the_shell_of_a_script(project: Path) -> None:
    """The script is run for real, with a program that prints its arguments in place of the interpreter."""
    printer = project / "it's $(touch harm) a printer"
    printer.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$@"\n')
    printer.chmod(0o755)
    hostile = ("-m", "cdkd", "work", "--task", "$(touch harm)", "`touch harm`", "; touch harm", "'\"\\")
    script = Job("name", hostile, (1,), numbered=True).script(project, site.Slurm(), str(printer))
    done = subprocess.run(
        ["bash"], input=script, capture_output=True, text=True, env={"SLURM_ARRAY_TASK_ID": "5"}, check=True
    )
    assert done.stdout.splitlines() == [str(project), *hostile, "5"]
    assert not list(project.parent.rglob("harm"))
    options = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert all(shlex.split(line, comments=False) == line.split() for line in options)


def test_a_task_has_a_gpu_for_each_rank(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(PARAMS.replace("{epochs: 2}", "{epochs: 2, ranks: 2}"))
    with pytest.raises(BadParams, match=r"slurm\.gpus in site\.yaml: 1, and training\.ranks is 2"):
        submit.Submission(project)
    (project / "site.yaml").write_text(SITE.replace("gpus: 1", "gpus: 2"))
    assert "#SBATCH --gpus=2" in "\n".join(submit.dry_run(project))
    assert "--cpus-per-task" not in "\n".join(submit.dry_run(project))


def test_without_gpus_a_task_has_a_core_for_each_rank(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(PARAMS.replace("{epochs: 2}", "{epochs: 2, ranks: 2}"))
    (project / "site.yaml").write_text("slurm: {partition: cpu}\n")
    scripts = [script for script in submit.dry_run(project) if script.startswith("#!")]
    assert ["#SBATCH --cpus-per-task=2\n" in one for one in scripts] == [True] * (len(scripts) - 1) + [False]
    (project / "site.yaml").write_text("slurm: {cpus: 1}\n")
    with pytest.raises(BadParams, match=r"slurm\.cpus in site\.yaml: 1, .* expected a core for each rank"):
        submit.Submission(project)
    (project / "site.yaml").write_text("slurm: {cpus: 4}\n")
    assert "#SBATCH --cpus-per-task=4" in "\n".join(submit.dry_run(project))


def test_params_that_differ_have_jobs_of_their_own(project: Path) -> None:
    first = submit.Submission(project)
    assert first.prefix == f"cdkd-tiny-{first.key}-"
    (project / "params.yaml").write_text(f"# a comment\n{PARAMS}report: {{ablation: [kd]}}\n")
    assert submit.Submission(project).key == first.key  # neither trains anything else
    (project / "params.yaml").write_text(PARAMS.replace("[3, 7]", "[7, 3]"))
    assert submit.Submission(project).key != first.key


def test_what_is_queued_is_not_submitted_again(project: Path) -> None:
    submission = submit.Submission(project)

    def queued(what: str, number: int | None = None) -> slurm.Queued:
        return slurm.Queued(submission.prefix + what, "1", number, "RUNNING", "node1")

    queue = {
        "teacher": [queued("teacher")],
        "students": [queued("students", 1)],
        "report": [queued("report")],
    }
    steps = {step.what: step for step in submission.steps(queue)}
    assert list(steps) == ["students", "study-tune", "tuned", "report"]
    assert steps["students"].job.array == (0,)
    queue |= {
        "students": [queued("students", 0), queued("students", 1)],
        "study-tune": [queued("study-tune")],
    }
    queue |= {"tuned": [queued("tuned", place) for place in (0, 1)]}
    assert list(submission.steps(queue)) == []


def test_without_slurm_a_line_says_what_to_do(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CdkdError, match=r"no Slurm here; `cdkd submit --dry-run` prints"):
        list(submit.submit(project))


@pytest.mark.parametrize("task", ["2", "-1", "one", "", "²", "0x1"])
def test_a_task_that_there_is_not_is_refused(project: Path, task: str, stop: Stop) -> None:
    with pytest.raises(BadParams, match="expected teacher, a number from 0 to 1"):
        work.work(load(project / "params.yaml"), task, stop)


def test_restarts_without_progress_come_to_an_end(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "site.yaml").write_text("slurm: {restarts: 2}")
    params, store = load(project / "params.yaml"), Store(project)
    run = RunSpec("tiny", "kd", 3, {"some": "config"}, "code")

    def start(count: int) -> None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(count))
        work._check_progress(params, store, [run])

    for _ in range(9):
        work._check_progress(params, store, [run])  # by hand it may be started as often as one likes
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    for count in range(3):
        start(count)
    last = store.checkpoint(run.fingerprint) / "LAST"
    last.parent.mkdir(parents=True)
    last.write_text("an epoch more")
    for count in range(3, 6):
        start(count)
    with pytest.raises(CdkdError, match="tiny-students-seed-3: 3 restarts without a new checkpoint"):
        start(6)
    start(0)  # submitted again


TOLD = """
import signal, sys, time
from cdkd.cluster.stop import Stop
stop = Stop()
if sys.argv[1] == "at once":
    stop.at_once()
print("listens", flush=True)
while not stop():
    time.sleep(0.05)
if sys.argv[1] == "slow":
    time.sleep(60)
sys.exit(stop.end())
"""


WHILE_IT_PRINTS = """
import io, os, signal, sys
from cdkd.cluster.stop import Stop
class Raw(io.RawIOBase):
    sent = False
    def writable(self):
        return True
    def fileno(self):
        return 1
    def write(self, data):
        if not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)
        return os.write(1, data)
stop = Stop()
sys.stdout = io.TextIOWrapper(io.BufferedWriter(Raw()))
print("epoch 1", flush=True)
sys.exit(stop.end() if stop() else 3)
"""


def test_a_signal_may_come_while_a_line_is_printed() -> None:
    words = [sys.executable, "-c", WHILE_IT_PRINTS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert "it is asked to stop: a checkpoint follows" in done.stdout
    assert "epoch 1" in done.stdout


def test_the_end_of_its_time_does_not_kill_a_task_that_is_done(stop: Stop) -> None:
    stop.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN  # Python gives a handler up before it ends
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.signal is None


@pytest.mark.parametrize(
    ("how", "numbers", "code"),
    [
        ("epoch", [signal.SIGTERM], 143),
        ("epoch", [signal.SIGUSR1], 75),
        ("slow", [signal.SIGTERM, signal.SIGTERM], 143),
        ("at once", [signal.SIGUSR1], 75),
    ],
)
def test_a_signal_stops_a_task(how: str, numbers: list[int], code: int) -> None:
    with subprocess.Popen([sys.executable, "-c", TOLD, how], stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == "listens\n"
        for number in numbers:
            task.send_signal(number)
            if how != "at once":
                assert "a checkpoint follows" in task.stdout.readline() or number == numbers[-1]
        assert task.wait(PATIENCE) == code
