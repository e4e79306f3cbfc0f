"""The one loop: a cohort of students against one teacher. A teacher's own training is a cohort of one with no teacher.

A student's result is the same bits alone and in any company: everything random is a function of (seed, epoch, step),
and the students share nothing but the batch and the frozen teacher's features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from cdkd.core.errors import Diverged
from cdkd.core.features import Features
from cdkd.core.randomness import stream_seed
from cdkd.core.schedule import Method, Recipe
from cdkd.data.batches import Batch, Batches
from cdkd.losses.base import Needs
from cdkd.models.build import build
from cdkd.models.forward import Forward
from cdkd.training import checkpoint
from cdkd.training.cuda_graph import Beside, Recorded
from cdkd.training.evaluation import Examination, Row
from cdkd.training.objective import Objective
from cdkd.training.optimiser import SGD
from cdkd.training.teacher import Teacher

WRONG = "train_top1_error"  # beside the losses among an epoch's sums


def network(name: str, data: Mapping[str, Any], seed: int, device: torch.device) -> nn.Module:
    """A network for these classes and channels, initialised from the seed: the same for every method of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed("initial weights", seed))
        model = build(name, data["classes"], data["image"][2])
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class Run:
    """One student in training: what it is, what it has become, and its history."""

    def __init__(
        self,
        key: str,
        method: Method,
        recipe: Recipe,
        model: nn.Module,
        seed: int,
        sample: Batch,
        teacher: Teacher | None,
        folder: Path,
        environment: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """key: the run's fingerprint; sample: a batch, for the shapes of features; folder: where its checkpoints lie;
        environment: what else may change its last bits."""
        self.key, self.recipe, self.model, self.folder = key, recipe, model, folder
        model.eval()  # the sample must not touch BatchNorm's statistics
        with torch.no_grad():
            seen: Features = model(sample.images)
        self.objective = Objective(method, seen, teacher(sample, Needs.MAPS) if teacher else None, seed).to(
            sample.images.device
        )
        self.forward = Forward(model, recipe)
        self.optimizer = SGD([*model.parameters(), *self.objective.parameters()], recipe)
        self.history: list[Row] = []
        self.environments: list[dict[str, Any]] = []  # that it was trained in, one after the other
        self.diverged: Diverged | None = None
        self.failed: Exception | None = None  # what torch raised in a step: no memory, say
        self.pruned = False  # not worth another epoch: somebody's decision, set between epochs
        # sums over an epoch stay on the device: one synchronisation an epoch
        self._sums = {
            name: torch.zeros((), device=sample.images.device) for name in (*self.objective.weights, WRONG)
        }
        if (state := checkpoint.load(folder)) is not None:
            model.load_state_dict(state["model"])
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history, self.environments = state["history"], state["environments"]
        if self.environments[-1:] != [dict(environment)]:
            self.environments.append(dict(environment))

    @property
    def epoch(self) -> int:
        """The epoch to train next."""
        return len(self.history)

    @property
    def done(self) -> bool:
        return (
            self.pruned
            or self.diverged is not None
            or self.failed is not None
            or self.epoch >= self.recipe.epochs
        )

    def open_epoch(self) -> None:
        self.model.train()
        self.objective.train()
        self.objective.open_epoch(self.epoch)
        self.optimizer.rate.fill_(self.recipe.learning_rate_at(self.epoch))
        for total in self._sums.values():
            total.zero_()

    def step(self, batch: Batch, teacher: Features | None) -> None:
        student = self.forward(batch.images)
        total, losses = self.objective(student, teacher, batch.labels)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        wrong = (student.logits.detach().argmax(1) != batch.labels).sum()
        for name, value in losses.items():
            self._sums[name].add_(value, alpha=len(batch.labels))
        self._sums[WRONG].add_(wrong)

    def close_epoch(self, images: int, test: Examination) -> Row | None:
        """The epoch's row of the history, after so many images; None, and `diverged` set, where a number stopped being finite."""
        means = {name: self._sums[name].item() / images for name in (*self.objective.active, WRONG)}
        learning_rate = self.recipe.learning_rate_at(self.epoch)
        bad = [f"loss {name} is {value}" for name, value in means.items() if not math.isfinite(value)]
        if not bad and not all(
            bool(torch.isfinite(p).all()) for p in (*self.model.parameters(), *self.objective.parameters())
        ):
            bad = ["a weight is not finite"]
        judged = {} if bad else test.row(self.model)  # batch norm may overflow in eval mode alone
        bad += [
            f"{name} is {value}" for name, value in judged.items() if not torch.tensor(value).isfinite().all()
        ]
        if bad:
            self.diverged = Diverged(
                f"{' and '.join(bad)} in epoch {self.epoch} at learning rate {learning_rate:g}"
            )
            return None
        weights = {name: weight.at(self.epoch) for name, weight in self.objective.weights.items()}
        wrong = means.pop(WRONG)
        row = {
            "epoch": self.epoch,
            "learning_rate": learning_rate,
            "weights": weights,
            "losses": means,
            "train_top1_error": 100 * wrong,
        }
        self.history.append(row | judged)
        return self.history[-1]

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoint.save(
            self.folder, self.epoch, state | {"history": self.history, "environments": self.environments}
        )

    def weights(self) -> bytes:
        """The student alone, without connectors, as safetensors."""
        return to_safetensors(
            {name: value.contiguous().cpu() for name, value in self.model.state_dict().items()}
        )


def train(
    cohort: Sequence[Run],
    teacher: Teacher | None,
    batches: Batches,
    test: Examination,
    seed: int,
    *,
    checkpoint_seconds: float = 30.0,
    closed: Callable[[Run, Row | None], None] = lambda run, row: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train every run of the cohort to its end. Runs resumed at different epochs join when theirs comes; one that torch cannot
    go on with is left with `failed` set, and the others go on.

    checkpoint_seconds: least time between checkpoints, which lie at epoch edges; `closed` hears of every epoch; `stop`
    is asked after each, and where it says so all are kept as they stand.
    """
    saved = time.monotonic()
    step, what = None, None
    for epoch in range(
        min((run.epoch for run in cohort if not run.done), default=0),
        max((run.recipe.epochs for run in cohort), default=0),
    ):
        active = [run for run in cohort if run.epoch == epoch and not run.done]
        if not active:
            continue
        for run in active:
            run.open_epoch()
        if step is None or what != [
            (run.key, run.objective.active) for run in active
        ]:  # a recorded step serves until other losses are in force
            what = [(run.key, run.objective.active) for run in active]
            needs = max(run.objective.needs(epoch) for run in active)
            step = Recorded(
                partial(together, active, teacher, needs, Beside(batches.split.device)), batches.split.device
            )
        for batch in batches.epoch(seed, epoch):
            step(batch)
        last = stop()
        keep = last or time.monotonic() - saved >= checkpoint_seconds
        for run in active:
            if run.failed is not None:
                continue
            row = run.close_epoch(len(batches.split), test)
            if row is not None and (keep or run.done):  # a diverged state never replaces a sound one
                run.save()
            closed(run, row)
        if last:
            return
        if keep:
            saved = time.monotonic()


def together(
    active: Sequence[Run], teacher: Teacher | None, needs: Needs, beside: Beside, batch: Batch
) -> None:
    """One step of every student, on one pass of the teacher."""
    features = teacher(batch, needs) if teacher else None

    def one(run: Run) -> None:
        if run.failed is None:
            try:
                run.step(batch, features)
            except (RuntimeError, MemoryError) as error:  # its company goes on
                run.failed = error

    beside([partial(one, run) for run in active])
