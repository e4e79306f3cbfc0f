"""Slurm by its own commands: scripts for sbatch, what is in the queue, and what a job knows of itself.

Nothing that a file contains reaches a shell but the lines of `slurm.setup` in site.yaml, which are meant to.
`sacct` is not needed: whether a task is done is known from the store.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cdkd.core.errors import CdkdError

if TYPE_CHECKING:
    from cdkd.config.site import Slurm

LOGS = Path(".cdkd") / "slurm"  # in the project's folder
PATIENCE = 60.0  # seconds that a command of Slurm may take
ARRAY_TASK = '"$SLURM_ARRAY_TASK_ID"'


@dataclass(frozen=True)
class Job:
    """One job to submit.

    name: of the job, of letters, digits, - and .
    words: the command after the interpreter
    array: numbers of its tasks; None: one task without a number
    numbered: whether each of them gets its number as the last word
    trains: whether it gets the site's resources; else the cluster's default
    """

    name: str
    words: tuple[str, ...]
    array: tuple[int, ...] | None = None
    numbered: bool = False
    trains: bool = True

    def script(self, root: Path, site: Slurm, python: str) -> str:
        """For sbatch; python: the interpreter on the nodes."""
        lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in self._options(site))]
        last = [ARRAY_TASK] if self.numbered else []
        command = " ".join([*(shlex.quote(word) for word in (python, *self.words)), *last])
        return "\n".join(
            [*lines, f"cd {shlex.quote(str(root))} || exit 2", *site.setup, f"exec {command}", ""]
        )

    def _options(self, site: Slurm) -> list[str]:
        log = LOGS / f"{self.name}{'-%j' if self.array is None else '-%A_%a'}.log"
        options = [f"--job-name={self.name}", f"--output={log}", "--open-mode=append", "--requeue"]
        if self.array is not None:
            limit = "" if site.parallel is None else f"%{site.parallel}"
            options.append(f"--array={','.join(map(str, self.array))}{limit}")
        options += [f"--{key}={value}" for key, value in self._resources(site).items() if value is not None]
        return [*options, *site.extra]

    def _resources(self, site: Slurm) -> dict[str, str | int | None]:
        common: dict[str, str | int | None] = {"partition": site.partition, "account": site.account}
        if not self.trains:
            return common
        return common | {
            "time": site.time,
            "signal": f"B:USR1@{site.notice}",
            "gpus": site.gpus,
            "cpus-per-task": site.cpus,
            "mem": site.memory,
        }


class Queued(NamedTuple):
    """A task in Slurm's queue. key: of its job, for dependencies; number: of the task in an array"""

    name: str
    key: str
    number: int | None
    state: str
    where: str  # nodes, or why it waits


def submit(job: Job, script: str, root: Path, after: Sequence[str] = ()) -> str:
    """The number of the new job; after: dependencies, such as afterok:12"""
    (root / LOGS).mkdir(parents=True, exist_ok=True)
    words = ["sbatch", "--parsable", *([f"--dependency={','.join(after)}"] if after else ())]
    if any(one.startswith("afterok") for one in after):
        words.append("--kill-on-invalid-dep=yes")
    return _asked(words, root, script).strip().partition(";")[0]


def queue(prefix: str) -> list[Queued]:
    """This user's tasks whose names start so, that have not ended."""
    text = _asked(["squeue", "--me", "--array", "--noheader", "--format=%j|%F|%K|%T|%R"], Path.cwd())
    rows = [line.split("|", 4) for line in text.splitlines() if line.startswith(prefix)]
    return [
        Queued(name, key, int(number) if number.isdecimal() else None, state, where.strip("()"))
        for name, key, number, state, where in rows
    ]


def cancel(keys: Sequence[str]) -> None:
    _asked(["scancel", *keys], Path.cwd())


def in_job() -> bool:
    return "SLURM_JOB_ID" in os.environ


def restarts() -> int:
    """How often Slurm has restarted the job of this process."""
    count = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(count) if count.isdecimal() else 0


def requeue_own_job() -> None:
    """Ask Slurm to run the job of this process again; outside of a job nothing happens."""
    if not in_job():
        return
    names = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")  # a task may have the number of its whole array
    own = "_".join(os.environ[name] for name in names if name in os.environ)
    _asked(["scontrol", "requeue", own or os.environ["SLURM_JOB_ID"]], Path.cwd())


def _asked(words: Sequence[str], folder: Path, text: str | None = None) -> str:
    """What a command of Slurm prints. Raises `CdkdError` with its first line."""
    try:
        done = subprocess.run(
            words, cwd=folder, input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except FileNotFoundError:
        hint = "`cdkd submit --dry-run` prints the scripts, `cdkd work` runs the tasks without Slurm"
        raise CdkdError(f"{words[0]}: not found, so there is no Slurm here; {hint}") from None
    except subprocess.TimeoutExpired:
        raise CdkdError(f"{words[0]}: no answer from Slurm within {PATIENCE:.0f} s; try again") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise CdkdError(f"{words[0]}: {lines[0]}")
    return done.stdout
