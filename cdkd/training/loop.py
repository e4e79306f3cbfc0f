"""The one training loop: a cohort of runs on one stream of batches and one pass of the teacher.

A run's result is the same bits alone and in any cohort: everything random is a function of (seed, epoch,
step), and the runs share nothing but the batch and what is computed of the frozen teachers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cdkd.core.batch import Batch
from cdkd.core.needs import Needs
from cdkd.data.batches import Batches
from cdkd.training.cuda_graph import CudaGraphStep, StreamPool
from cdkd.training.evaluation import Evaluation, Row
from cdkd.training.objective import Parts
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
    on_epoch: Callable[[Run, Row | None], None] = lambda run, row: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train every run of the cohort to its end.

    Runs resumed at different epochs join at their epoch. If torch raises an error in a run, its `failed` is
    set and the others continue.

    checkpoint_seconds: least time between checkpoints, which are made between epochs; on_epoch: called after
    each epoch of each run; stop: asked after each epoch, and where it is true all runs are saved as they are
    """
    saved = time.monotonic()
    step, recorded = None, None
    first = min((run.epoch for run in cohort if not run.done), default=0)
    for epoch in range(first, max((run.recipe.epochs for run in cohort), default=0)):
        active = [run for run in cohort if run.epoch == epoch and not run.done]
        if not active:
            continue
        for run in active:
            run.open_epoch(batches.steps)
        objectives = [(run.key, run.learner.objective) for run in active]
        computed = [(key, objective.active, objective.phases) for key, objective in objectives]
        if (
            step is None or recorded != computed
        ):  # a recorded step serves until other losses are active, or other phases of them
            step, recorded = cohort_step(active, teachers, epoch, batches), computed
        for batch in batches.epoch(seed, epoch, max(run.learner.views for run in active)):
            for run in active:
                run.before_step(batch)
            step(batch)
        last = stop()
        keep = last or time.monotonic() - saved >= checkpoint_seconds
        for run in active:
            if run.failed is not None:
                continue
            row = run.close_epoch(len(batches.split), evaluation)
            if row is not None and (keep or run.done):  # the state of a diverged run is not saved
                run.save()
            on_epoch(run, row)
        if last:
            return
        if keep:
            saved = time.monotonic()


def cohort_step(
    active: Sequence[Run], teachers: Mapping[str, Teacher], epoch: int, batches: Batches
) -> CudaGraphStep:
    """One step of every run, on one pass of each teacher."""
    device = batches.split.device
    needs = {name: needs_of(active, epoch, name) for name in teachers}
    in_parallel = StreamPool(device)

    def step(batch: Batch) -> None:
        answers = {name: teacher(batch, needs[name]) for name, teacher in teachers.items() if needs[name]}
        parts: Parts = {}
        for run in active:
            run.learner.objective.add_parts(answers, parts)

        def train_one(run: Run) -> None:
            if run.failed is None:
                try:
                    run.step(batch, answers, parts)
                except (RuntimeError, MemoryError) as error:  # the other runs go on
                    run.failed = error

        in_parallel([partial(train_one, run) for run in active])

    return CudaGraphStep(step, device, record=all(run.learner.draws == 1 for run in active))


def needs_of(runs: Sequence[Run], epoch: int, source: str) -> Needs:
    """What the active losses of all runs read of a teacher."""
    needs = Needs.NOTHING
    for run in runs:
        needs |= run.learner.objective.needs(epoch, source)
    return needs
