"""The one training loop: a cohort of runs on one stream of batches and one pass of the teacher.

A run's result is the same bits alone and in any cohort: everything random is a function of (seed, epoch,
step), and the runs share nothing but the batch and what is computed of the frozen teachers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from cdkd.core.batch import Batch
from cdkd.core.needs import Needs
from cdkd.data.batches import Batches
from cdkd.training.cuda_graph import CudaGraphStep, StreamPool
from cdkd.training.evaluation import Evaluation, Row
from cdkd.training.objective import Parts
from cdkd.training.ranks import Exchange
from cdkd.training.run import Run
from cdkd.training.teacher import Teacher


def train(
    cohort: Sequence[Run],
    teachers: Mapping[str, Teacher],
    batches: Batches,
    evaluation: Evaluation,
    seed: int,
    *,
    checkpoint_seconds: float = 30.0,
    step_checkpoint_seconds: float = 600.0,
    on_epoch: Callable[[Run, Row | None], None] = lambda run, row: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train every run of the cohort to its end.

    Runs resumed at different epochs or steps join at theirs. If torch raises an error in a run, its `failed`
    is set and the others continue.

    checkpoint_seconds: least time between checkpoints at the ends of epochs; step_checkpoint_seconds: at
        other steps; on_epoch: called after each epoch of each run
    stop: asked after each step, and where it is true all runs are saved as they are
    """
    exchange = None if batches.ranks is None else Exchange(batches.ranks, cohort, stop)
    leads = exchange is None or exchange.ranks.leads
    steps = Steps(teachers, batches, seed, exchange)
    saved = time.monotonic()
    first = min((run.epoch for run in cohort if not run.done), default=0)
    for epoch in range(first, max((run.recipe.epochs for run in cohort), default=0)):
        active = [run for run in cohort if run.epoch == epoch and not run.done]
        if not active:
            continue
        for run in active:
            run.open_epoch(batches.steps)
        for batch, joined, step in steps.epoch(active, epoch):
            for run in joined:
                run.before_step(batch)
            step(batch)
            for run in joined:
                run.position = batch.step + 1
            last = stop() if exchange is None else exchange.stop
            if last or time.monotonic() - saved >= step_checkpoint_seconds:
                for run in active:
                    run.save()
                saved = time.monotonic()
            if last:
                return
        keep = time.monotonic() - saved >= checkpoint_seconds
        for run in active if leads else ():
            if run.failed is not None:
                continue
            row = run.close_epoch(len(batches.split), evaluation)
            if row is not None and (keep or run.done):  # the state of a diverged run is not saved
                run.save()
            on_epoch(run, row)
        if exchange is not None:
            exchange.end_epoch(active)
        if keep:
            saved = time.monotonic()


class Steps:
    """The steps of a cohort's epochs. One that is recorded serves until other losses are active, or other
    phases of them.
    """

    def __init__(
        self, teachers: Mapping[str, Teacher], batches: Batches, seed: int, exchange: Exchange | None
    ) -> None:
        self.teachers, self.batches, self.seed, self.exchange = teachers, batches, seed, exchange
        self._step: CudaGraphStep | None = None
        self._recorded: list[tuple[Any, ...]] = []

    def epoch(
        self, active: Sequence[Run], epoch: int
    ) -> Iterator[tuple[Batch, Sequence[Run], CudaGraphStep]]:
        """Each batch, the runs that have not trained on it yet, and their step."""
        views = max(run.learner.views for run in active)
        for begin, until, joined in stretches(active, self.batches.steps):
            step = self._step_of(joined, epoch)
            for batch in self.batches.epoch(self.seed, epoch, views, begin, until):
                yield batch, joined, step

    def _step_of(self, runs: Sequence[Run], epoch: int) -> CudaGraphStep:
        objectives = [(run.key, run.learner.objective) for run in runs]
        computed = [(key, objective.active, objective.phases) for key, objective in objectives]
        if self._step is None or self._recorded != computed:
            self._step = cohort_step(runs, self.teachers, epoch, self.batches, self.exchange)
            self._recorded = computed
        return self._step


def stretches(runs: Sequence[Run], steps: int) -> Iterator[tuple[int, int, list[Run]]]:
    """First step, end, and runs of each part of an epoch; one, unless runs are resumed at different steps."""
    begins = sorted({run.position for run in runs})
    for begin, until in zip(begins, [*begins[1:], steps], strict=True):
        yield begin, until, [run for run in runs if run.position <= begin]


def cohort_step(
    active: Sequence[Run],
    teachers: Mapping[str, Teacher],
    epoch: int,
    batches: Batches,
    exchange: Exchange | None = None,
) -> CudaGraphStep:
    """One step of every run, on one pass of each teacher."""
    device = batches.split.device
    needs = {name: needs_of(active, epoch, name) for name in teachers}
    in_parallel = StreamPool(device)

    def step(batch: Batch) -> None:
        answers = {name: teacher(batch, needs[name]) for name, teacher in teachers.items() if needs[name]}
        parts: Parts = {}
        for run in active:
            run.learner.objective.add_parts(answers, batch, parts)
        if exchange is not None:
            exchange.step(active, batch, answers, parts)
            return

        def train_one(run: Run) -> None:
            if run.failed is None:
                try:
                    run.step(batch, answers, parts)
                except (RuntimeError, MemoryError) as error:  # the other runs go on
                    run.failed = error

        in_parallel([partial(train_one, run) for run in active])

    record = exchange is None and all(run.learner.draws == 1 for run in active)
    return CudaGraphStep(step, device, record=record)


def needs_of(runs: Sequence[Run], epoch: int, source: str) -> Needs:
    """What the active losses of all runs read of a teacher."""
    needs = Needs.NOTHING
    for run in runs:
        needs |= run.learner.objective.needs(epoch, source)
    return needs
