"""`cdkd submit`: an experiment as jobs of Slurm, and what became of them.

The teacher comes first, then a task for each cohort and one for each study, then the cohorts of the methods
that studies found, the report last; each runs `cdkd work`. Nothing is noted down: the queue knows the jobs by
their names, which hold a digest of the params, and the store knows what is done. The jobs train the params as
they were when they were submitted, whatever becomes of params.yaml.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cdkd.cluster import slurm
from cdkd.cluster.slurm import Job, Queued
from cdkd.config import reading, site
from cdkd.config.params import load
from cdkd.config.paths import data_folder
from cdkd.config.teachers import views
from cdkd.core.digest import digest
from cdkd.core.errors import BadData, BadParams
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import read_meta
from cdkd.pipeline.queries import any_teacher, asked_seeds, full, todays_studies
from cdkd.pipeline.work import REPORT, STUDY
from cdkd.runs.record import Record
from cdkd.runs.specification import student_plans
from cdkd.runs.store import Store
from cdkd.storage.files import write_atomically

SNAPSHOTS = Path(".cdkd") / "submitted"  # params.yaml as it was submitted, by its digest
STUDENTS, TUNED = "students", "tuned"
EVERY = 10.0  # seconds between looks at the queue
SHARED_STORAGE = "postgresql"  # how the address of a database starts that several workers may share


@dataclass(frozen=True)
class Step:
    """A job, by what it is (teacher, students, study-NAME, tuned, report), and the steps it comes after."""

    what: str
    job: Job
    after: tuple[str, ...] = ()


class Submission:
    """The jobs of one experiment's params."""

    def __init__(self, root: Path) -> None:
        path = root / "params.yaml"
        self.params = asked_seeds(load(path))
        self.text = path.read_text(encoding="utf-8-sig")
        values = {key: value for key, value in reading.read(path)[0].items() if key != "report"}
        self.key = digest({"root": str(root.resolve()), "params": values})[:8]
        self.prefix = f"cdkd-{self.params.experiment}-{self.key}-"
        ranks = max(self.params.training.ranks, self.params.teacher.training.ranks)
        self.site, self.store = _enough(site.load(root).slurm, ranks), Store(root)

    @cached_property
    def teachers(self) -> list[Record]:
        """Those that are trained."""
        try:
            data = read_meta(data_folder(self.params))
        except BadData:  # no data yet: the first job prepares them
            return []
        return [one for view in views(self.params) if (one := any_teacher(view, data)) is not None]

    @property
    def taught(self) -> bool:
        """Whether every teacher is trained."""
        return len(self.teachers) == len(views(self.params))

    @cached_property
    def cohorts(self) -> dict[int, list[RunSpec]]:
        """The students of each seed, by its place in params.yaml; none before every teacher is trained."""
        if not self.taught:
            return {}
        params, data = full(self.params), read_meta(data_folder(self.params))
        pairs = list(zip(views(params), self.teachers, strict=True))
        return {
            place: [run for view, teacher in pairs for run in student_plans(view, data, teacher, seed)]
            for place, seed in enumerate(params.seeds)
        }

    @property
    def planned(self) -> int:
        """The students of one seed, without those of methods that searches find."""
        return sum(len(view.methods) for view in views(self.params))

    @cached_property
    def pending(self) -> dict[int, int]:
        """How many students of each seed are not in the store; all, where a teacher is not trained yet."""
        if not self.taught:
            return dict.fromkeys(range(len(self.params.seeds)), self.planned)
        return {
            place: sum(not self.store.has(run.fingerprint) for run in runs)
            for place, runs in self.cohorts.items()
        }

    @cached_property
    def studies(self) -> dict[str, bool]:
        """The studies that find a method, and whether each is complete."""
        known = todays_studies(self.params) if self.taught else {}
        return {
            name: name in known
            and (space.study.minutes is not None or len(known[name].trials) >= space.trials)
            for name, space in self.params.search.items()
            if space.study.method is not None
        }

    def queue(self) -> dict[str, list[Queued]]:
        """What is in Slurm's queue, by what it is."""
        found: dict[str, list[Queued]] = {}
        for task in slurm.queue(self.prefix):
            found.setdefault(task.name.removeprefix(self.prefix), []).append(task)
        return found

    def steps(self, queue: dict[str, list[Queued]]) -> Iterator[Step]:
        """The jobs still to be submitted, of what is neither stored nor queued; each after those it needs."""
        made: list[str] = []
        for step in self._all_steps():
            queued = {task.number for task in queue.get(step.what, ())}
            if step.job.numbered:
                missing = tuple(number for number in step.job.array or () if number not in queued)
                step = replace(step, job=replace(step.job, array=missing))
            if queued and not (step.job.numbered and step.job.array):
                continue
            made.append(step.what)
            yield step
        if made:
            before = tuple(dict.fromkeys((*made, *(what for what in queue if what != REPORT))))
            yield self._step(REPORT, REPORT, None, before)

    def _all_steps(self) -> Iterator[Step]:
        """Of what is not stored, but the report."""
        first = () if self.taught else (TEACHER,)
        if first:
            yield self._step(TEACHER, TEACHER)
        if pending := tuple(place for place, count in self.pending.items() if count):
            yield self._step(STUDENTS, None, pending, first)
        studies = [name for name, complete in self.studies.items() if not complete]
        for name in studies:
            yield self._step(f"study-{name}", f"{STUDY}{name}", self._workers(name), first)
        if studies:
            places = tuple(range(len(self.params.seeds)))
            yield self._step(TUNED, None, places, tuple(f"study-{name}" for name in studies))

    def _workers(self, study: str) -> tuple[int, ...] | None:
        given = os.environ.get("CDKD_SEARCH_STORAGE") or self.params.search[study].study.storage or ""
        shared = given.startswith(SHARED_STORAGE) and self.site.workers > 1
        return tuple(range(self.site.workers)) if shared else None

    def _step(
        self,
        what: str,
        task: str | None,
        array: tuple[int, ...] | None = None,
        after: tuple[str, ...] = (),
    ) -> Step:
        """task: None where the number in the array is the task"""
        words = ("-m", "cdkd", "work", "--params", str(self.snapshot), "--task", *([task] if task else ()))
        job = Job(f"{self.prefix}{what}", words, array, numbered=task is None, trains=what != REPORT)
        return Step(what, job, after)

    @property
    def snapshot(self) -> Path:
        """From the project's folder."""
        return SNAPSHOTS / f"{self.key}.yaml"

    def script(self, step: Step) -> str:
        return step.job.script(self.params.root, self.site, self.site.python or sys.executable)


def _enough(asked: site.Slurm, ranks: int) -> site.Slurm:
    """A GPU for each rank, or a core where no GPU is asked for. Raises `BadParams` where there are fewer."""
    what = "cpus" if asked.gpus is None else "gpus"
    given = getattr(asked, what)
    if ranks == 1 or (given is not None and given >= ranks):
        return asked
    if given is not None:
        raise BadParams(
            f"slurm.{what} in site.yaml: {given}, and training.ranks is {ranks}; "
            f"expected a {'core' if what == 'cpus' else 'GPU'} for each rank"
        )
    return asked.model_copy(update={"cpus": ranks})


def dry_run(root: Path) -> Iterator[str]:
    """The scripts of everything that is not stored; Slurm is not asked."""
    submission = Submission(root)
    steps = list(submission.steps({}))
    if not steps:
        yield "# nothing: everything is stored"
    for step in steps:
        yield f"# {step.what}" + (f", after {', '.join(step.after)}" if step.after else "")
        yield submission.script(step)


def submit(root: Path) -> Iterator[str]:
    """Submit what is neither stored nor queued; a line for each job."""
    submission = Submission(root)
    name, queue = submission.params.experiment, submission.queue()
    steps = list(submission.steps(queue))
    if not steps:
        queued = sum(map(len, queue.values()))
        yield f"{name}: nothing to submit; " + (
            f"{queued} tasks are queued" if queued else "everything is stored, and `dvc repro` reports it"
        )
        return
    write_atomically(root / submission.snapshot, submission.text)
    keys = {what: list(dict.fromkeys(task.key for task in tasks)) for what, tasks in queue.items()}
    if REPORT in keys:  # another one comes after what is submitted now
        slurm.cancel(keys.pop(REPORT))
    for step in steps:
        after = [key for what in step.after for key in keys[what]]
        kind = "afterany" if step.what == REPORT else "afterok"
        key = slurm.submit(step.job, submission.script(step), root, [f"{kind}:{key}" for key in after])
        keys.setdefault(step.what, []).append(key)
        tasks = "" if step.job.array is None else f" ({len(step.job.array)} tasks)"
        yield f"{name}: {step.what}{tasks} is job {key}" + (f", after {', '.join(after)}" if after else "")
    yield f"{name}: logs in {slurm.LOGS}; `cdkd submit --status` shows how far it is"


def status(root: Path) -> list[str]:
    """A line for each task: what is stored, and what Slurm says."""
    submission = Submission(root)
    queue, teachers = submission.queue(), len(views(submission.params))
    some = f"{len(submission.teachers)} of {teachers} stored" if teachers > 1 else "pending"
    rows = [(TEACHER, "stored" if submission.taught else some, queue.get(TEACHER, []))]
    for place, seed in enumerate(submission.params.seeds):
        of = len(submission.cohorts.get(place, ())) or submission.planned
        tasks = [task for what in (STUDENTS, TUNED) for task in queue.get(what, ()) if task.number == place]
        rows.append((f"seed {seed}", f"{of - submission.pending[place]} of {of} stored", tasks))
    for name, complete in submission.studies.items():
        rows.append((f"study {name}", "stored" if complete else "pending", queue.get(f"study-{name}", [])))
    rows.append((REPORT, "", queue.get(REPORT, [])))
    width = max(len(what) for what, _, _ in rows)
    return [
        f"{what:<{width}}  {stored:<16}  {'; '.join(map(_shown, tasks)) or 'not queued'}".rstrip()
        for what, stored, tasks in rows
    ]


def _shown(task: Queued) -> str:
    number = "" if task.number is None else f"_{task.number}"
    return f"job {task.key}{number} {task.state.lower()} ({task.where})"


def follow(root: Path) -> Iterator[str]:
    """The status, and each line of it again as it changes, until nothing is queued."""
    shown: set[str] = set()
    while True:
        lines = status(root)
        yield from (line for line in lines if line not in shown)
        shown = set(lines)
        if not Submission(root).queue():
            return
        time.sleep(EVERY)


def cancel(root: Path) -> Iterator[str]:
    """Take every task of these params out of the queue."""
    submission = Submission(root)
    tasks = [task for found in submission.queue().values() for task in found]
    if tasks:
        slurm.cancel(list(dict.fromkeys(task.key for task in tasks)))
    kept = "; what is finished is in the store, the rest has its checkpoints" if tasks else ""
    yield f"{submission.params.experiment}: {len(tasks)} tasks cancelled{kept}"
