"""The worker: trains the runs of a plan on a machine with torch and little else, no network and limited time.

    python -m cdkd.cluster.worker plan.json --out DIR --data cifar100-1.zip cifar100-2.zip --minutes 9

The teacher is trained first, then one cohort for each seed, into a store under DIR. The same command resumes
from the last checkpoints, and several workers with one DIR share the cohorts. Finished runs are in
DIR/results, for `cdkd import` in the project. Losses and networks of one's own are found in the working
directory, as in a project: copy losses/ and networks/ with the plan.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol

from cdkd.cluster import plan_file, results_bundle
from cdkd.cluster.deadline import Deadline
from cdkd.cluster.plan_data import PROJECT, prepared
from cdkd.cluster.plan_file import Plan
from cdkd.core import own_code
from cdkd.core.errors import BadCheckpoint, CdkdError, Diverged
from cdkd.core.processes import end_with, launched
from cdkd.core.run_spec import RunSpec
from cdkd.runs.store import RunStore, Store, cohort_name
from cdkd.storage.files import sha256, write_atomically
from cdkd.storage.leases import any_lost


class Train(Protocol):
    """`runs.execution.train_cohort`."""

    def __call__(
        self,
        root: Path,
        store: RunStore,
        plans: Sequence[RunSpec],
        data_folder: Path,
        teacher_weights: Path | None,
        /,
        *,
        stop: Callable[[], bool],
        start: Path | None = None,
    ) -> None: ...


class Worker:
    """One plan, the folder that it is carried out in, and the runs that are finished there."""

    def __init__(self, plan: Plan, out: Path, train: Train, deadline: Deadline) -> None:
        self.out, self.store, self.train, self.deadline = out, Store(out), train, deadline
        self.own = plan.weights_sha256 is None  # the teacher is trained here
        trained = self._trained(plan) if self.own else None
        self.plan = plan if trained is None else plan.with_teacher(trained)

    def run(self, data: Sequence[Path], given: Path | None) -> None:
        """Train until every run is finished or the time is over.

        data: instead of the plan's
        given: the weights of a teacher that was finished before the plan was written
        """
        if self.own and given is not None:
            raise BadCheckpoint(
                f"{given}: the plan leaves its teacher open, to be trained here; to use a finished one, "
                "export the plan again"
            )
        if not self.remaining():
            return
        weights = None if self.own else self._known_teacher(given)
        with self.store.lock("data", wait=True):
            folder = prepared(self.plan, self.out, data)
        weights = weights or self._trained_teacher(folder)
        for wait in (False, True):  # what another worker trains comes last
            for runs in self.plan.seeds.values() if weights else ():
                self._train(runs, folder, weights, wait=wait)

    def remaining(self) -> list[RunSpec]:
        """The runs still to be trained, the teacher's among them where it is trained here."""
        return self._pending([*([self.plan.teacher] if self.own else []), *self.plan.students])

    def results(self, kind: results_bundle.Kind) -> str | None:
        """Write the results bundle, in the plan's order; None where nothing is finished.

        kind: of the students' weights
        """
        folder = self.out / "results"
        with self.store.lock("results", wait=True):  # as another worker may write them, too
            found = [self.store.get(run.fingerprint) for run in (self.plan.teacher, *self.plan.students)]
            records = [record for record in found if record is not None]
            if not records:
                return None
            files = results_bundle.write(folder, self.store, self.plan.experiment, records, kind)
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in files)
        return f"{folder}: {len(records)} runs in {sizes}"

    def _pending(self, runs: Sequence[RunSpec]) -> list[RunSpec]:
        return [
            run
            for run in runs
            if run.fingerprint not in self.plan.stored and self.store.get(run.fingerprint) is None
        ]

    def _train(self, runs: Sequence[RunSpec], folder: Path, weights: Path | None, *, wait: bool) -> None:
        """Train what is pending of a cohort; wait: also if another worker trains it now."""
        if not self._pending(runs):
            return
        log = partial(print, flush=True)
        with self.store.lock(
            cohort_name(runs[0]), wait=wait, log=log, stop=lambda: self.deadline.over
        ) as lease:
            pending = self._pending(runs)
            if lease is None or not pending or self.deadline.over:
                return
            what = f"seed {runs[0].seed}: {', '.join(run.method for run in pending)}"
            print(f"teacher: {runs[0].config['network']}" if runs[0].is_teacher else what, flush=True)
            self.deadline.begin()
            self.train(
                PROJECT, self.store, pending, folder, weights, stop=lambda: any_lost() or self.deadline()
            )
        self.results("none")  # now, as the next cohort may be killed without warning

    def _trained(self, plan: Plan) -> str | None:
        """The sha256 of a teacher that was trained here."""
        record = self.store.get(plan.teacher.fingerprint)
        return record.result["weights_sha256"] if record is not None and record.status == "finished" else None

    def _known_teacher(self, given: Path | None) -> Path:
        """The weights of a teacher that was finished before the plan was written."""
        expected, name = str(self.plan.weights_sha256), f"{self.plan.experiment}'s teacher"
        if given is None and self._trained(self.plan) == expected:
            return self.store.weights(self.plan.teacher.fingerprint)
        if given is None:
            raise BadCheckpoint(
                f"{name} is finished (sha256 {expected[:12]}...): give its weights by --teacher, "
                "a .safetensors file or a folder of its parts"
            )
        file = _joined(given, self.out / "teacher.safetensors", expected) if given.is_dir() else given
        if not file.is_file() or sha256(file) != expected:
            raise BadCheckpoint(f"{file}: not {name}: missing, or its sha256 is not {expected[:12]}...")
        return file

    def _trained_teacher(self, folder: Path) -> Path | None:
        """The weights of the teacher that is trained here; None where the time was over before.

        Completes the students' fingerprints in the plan.
        """
        plan = self.plan.teacher
        self._train([plan], folder, None, wait=True)
        record = self.store.get(plan.fingerprint)
        if record is not None and record.status != "finished":
            raise Diverged(f"the teacher diverged, so nobody can learn from it: {record.reason}")
        if (trained := self._trained(self.plan)) is None:
            return None
        self.plan = self.plan.with_teacher(trained)
        return self.store.weights(plan.fingerprint)


def _joined(folder: Path, file: Path, expected: str) -> Path:
    """The parts of a teacher's weights as one file. Raises `BadCheckpoint` for other weights."""
    if not file.is_file() or sha256(file) != expected:
        parts = sorted(folder.glob("teacher-*.part"))
        if not parts:
            raise BadCheckpoint(
                f"{folder}: no teacher-*.part in it; expected all parts of the teacher's weights"
            )
        content = b"".join(part.read_bytes() for part in parts)
        if hashlib.sha256(content).hexdigest() != expected:
            raise BadCheckpoint(
                f"{folder}: its {len(parts)} parts are not the teacher with sha256 {expected[:12]}...: "
                "one is missing or damaged"
            )
        write_atomically(file, content)
    return file


def main(words: Sequence[str], train: Train | None = None) -> int:
    """The command; returns the exit code. train: trains a cohort; default: `runs.execution.train_cohort`"""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `share_cores`; before torch is imported
    if train is None:
        from cdkd.runs.execution import train_cohort

        train = train_cohort
    arguments = _parser().parse_args(words)
    own_code.use(Path.cwd())
    if arguments.student is not None:
        train = partial(train, start=arguments.student)
    signal.signal(signal.SIGTERM, _terminated)
    if launched() > 1:
        from cdkd.training.launch import begin

        if (code := begin()) is not None:
            return code
    try:
        for line in carry_out(arguments, train):
            print(line, flush=True)
    except CdkdError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def carry_out(arguments: argparse.Namespace, train: Train) -> Iterator[str]:
    """Carry out the plan and report, line by line; the last line is `complete` or `remaining: N runs`."""
    deadline, out = Deadline(arguments.minutes), arguments.out
    plan = plan_file.read(arguments.plan)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CdkdError(f"{out}: cannot be made or written ({error.strerror})") from None
    worker = Worker(plan, out, train, deadline)
    try:
        worker.run(arguments.data, arguments.teacher)
    finally:
        if (written := worker.results(arguments.weights)) is not None:
            print(written, flush=True)
    left = worker.remaining()
    yield f"remaining: {len(left)} runs" if left else "complete"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cdkd.cluster.worker",
        description="Train the runs of a plan that `cdkd plan --export` wrote. Needs torch, but no network.",
        epilog="Example: python -m cdkd.cluster.worker plan.json --out results --minutes 9",
    )
    parser.add_argument("plan", type=Path, metavar="PLAN", help="the file that `cdkd plan --export` wrote")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for checkpoints and results; with the same folder the training is resumed",
    )
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=(),
        metavar="PATH",
        help="folders or zip archives of <split>/<class>/<image>, instead of the plan's own data source",
    )
    parser.add_argument(
        "--minutes",
        type=minutes,
        default=math.inf,
        metavar="M",
        help="stop, with a checkpoint, after the last step within so many minutes (default: no limit)",
    )
    parser.add_argument(
        "--weights",
        choices=["none", "bf16", "float32"],
        default="none",
        help="number type of the students' weights in the results (default: none, the weights are left out)",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="weights of a teacher that was trained before: .safetensors, or a folder of teacher-*.part",
    )
    parser.add_argument(
        "--student", type=Path, metavar="FILE", help="student.weights of params.yaml, where it names some"
    )
    return parser


def minutes(text: str) -> float:
    """argparse's message contains the name of this function."""
    value = float(text)
    if not value >= 0:
        raise ValueError(text)
    return value


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    end_with(partial(main, sys.argv[1:]))
