"""A cohort: runs of one seed that are trained together, built from their specifications."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.needs import SMALL, Needs
from cdkd.core.ranks import Ranks
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER, Method, Recipe
from cdkd.data.batches import Batches, evaluation
from cdkd.data.prepared import Meta, read_meta
from cdkd.losses.base import loss_class
from cdkd.training.environment import choose_device, environment, keep_freed_memory
from cdkd.training.evaluation import Evaluation, Row
from cdkd.training.learner import STUDENT, Learner
from cdkd.training.loop import needs_of, train
from cdkd.training.ranks import same_state
from cdkd.training.result import result_of
from cdkd.training.run import Run
from cdkd.training.setup import (
    CacheSettings,
    evaluation_of,
    networks,
    split,
    teacher_of,
    training_cache,
    training_split,
)
from cdkd.training.teacher import Teacher


@dataclass(frozen=True)
class Cohort:
    """Runs that are trained together.

    specs: by fingerprint
    evaluation: on the split that the runs are evaluated on
    environment: what may change the last bits of a result
    """

    specs: Mapping[str, RunSpec]
    runs: Sequence[Run]
    teachers: Mapping[str, Teacher]
    batches: Batches
    evaluation: Evaluation
    meta: Meta
    environment: Mapping[str, Any]

    def train(
        self,
        on_epoch: Callable[[Run, Row | None], None],
        stop: Callable[[], bool],
        checkpoint_seconds: float = 30.0,
        step_checkpoint_seconds: float = 600.0,
    ) -> None:
        seed = next(iter(self.specs.values())).seed
        train(
            self.runs,
            self.teachers,
            self.batches,
            self.evaluation,
            seed,
            checkpoint_seconds=checkpoint_seconds,
            step_checkpoint_seconds=step_checkpoint_seconds,
            on_epoch=on_epoch,
            stop=stop,
        )

    def result(self, run: Run, weights: bytes) -> dict[str, Any]:
        """See `Record.result`."""
        found = result_of(weights, run.learner.alone(), self.meta.image, run.history, self.evaluation)
        return found | run.learner.training_cost(self.meta.image)


def build_cohort(
    specs: Sequence[RunSpec],
    data_folder: Path,
    teacher_weights: Path | None,
    checkpoint_folder: Callable[[str], Path] | None,
    cache: CacheSettings | None = None,
    start: Path | None = None,
    ranks: Ranks | None = None,
) -> Cohort:
    """Read the data and the teacher, and build a run of each specification, resumed from its last checkpoint.

    specs: of one seed, one teacher and one split; their recipes may differ in the optimiser's numbers only
    checkpoint_folder: from a fingerprint to the folder; None of a rank other than 0, which has none
    start: weights that the students start from, where their specifications ask for them
    ranks: that train the cohort together; all begin in the state of rank 0
    """
    keep_freed_memory()
    device = choose_device()
    meta = read_meta(data_folder)
    first = specs[0]
    recipe = first.recipe
    training = training_split(data_folder, meta, device, first.judged_on)
    batches = Batches(training, recipe.augmentation, recipe.batch, ranks)
    judged = split(data_folder, meta, device, first.judged_on)
    teachers: dict[str, Teacher] = {}
    if first.config["teacher"] is not None and teacher_weights is not None:
        teachers[TEACHER] = teacher_of(first, teacher_weights, recipe, device)
    judge = teachers.get(TEACHER) if ranks is None or ranks.leads else None  # rank 0 alone evaluates
    evaluator = evaluation_of(first, recipe, judged, judge, cache)
    if teachers:
        teachers[TEACHER] = Teacher(teachers[TEACHER].model, recipe, first.config["teacher"]["batchnorm"])
    here = environment(device)
    sample = next(evaluation(judged, recipe.augmentation, batch=2))
    data = DataInfo(len(training), len(meta.classes), training.labels, recipe.batch)
    runs = []
    for spec in specs:
        model = networks(spec, device, start)
        key = spec.fingerprint
        folder = None if checkpoint_folder is None else checkpoint_folder(key)
        made = student_run(
            key, model, spec.terms, spec.recipe, spec.seed, sample, teachers, folder, here, data
        )
        runs.append(made)
    if teachers and cache is not None and _cacheable(runs, recipe.epochs):
        images = sum(meta.counts[name] for name in ("train", "validation"))
        teachers[TEACHER].cache = training_cache(first, teachers[TEACHER], batches, images, judged, cache)
    if ranks is not None:
        same_state(ranks, runs)
    return Cohort({spec.fingerprint: spec for spec in specs}, runs, teachers, batches, evaluator, meta, here)


def student_run(
    key: str,
    model: nn.Module | Mapping[str, nn.Module],
    method: Method,
    recipe: Recipe,
    seed: int,
    sample: Batch,
    teachers: Mapping[str, Teacher],
    folder: Path | None,
    environment: Mapping[str, Any] = MappingProxyType({}),
    data: DataInfo | None = None,
) -> Run:
    """A run of one network, or of the networks of the method's group, resumed from its last checkpoint.

    key: the run's fingerprint; sample: a batch, for the shapes of features; folder: of the checkpoints; None:
        there are none
    """
    read = reduce(or_, (loss_class(loss).needs for loss in method.losses), Needs.MAPS)
    shapes = {name: teacher(sample, read) for name, teacher in teachers.items()}
    if isinstance(model, nn.Module):
        learner = Learner({STUDENT: model}, method, recipe, sample, shapes, seed, data=data)
    else:  # imported by name: its code then affects only the fingerprints of runs with several networks
        kind = importlib.import_module("cdkd.training.group").GroupLearner
        learner = kind(model, method.group, method, recipe, sample, shapes, seed, data=data)
    run = Run(key, learner, recipe, folder, environment)
    run.resume()
    return run


def _cacheable(runs: Sequence[Run], epochs: int) -> bool:
    """Whether there is an epoch in which runs read the teacher's features, but none reads its maps."""
    needs = [needs_of(runs, epoch, TEACHER) for epoch in range(epochs)]
    return any(need and not need & ~SMALL for need in needs)
