"""One run in training: its learner, its history, and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

from cdkd.core.batch import Batch
from cdkd.core.errors import Diverged
from cdkd.core.features import Features
from cdkd.core.schedule import Recipe
from cdkd.core.task import CLASSIFICATION
from cdkd.training import checkpoint
from cdkd.training.evaluation import Evaluation, Row
from cdkd.training.learner import Learner
from cdkd.training.objective import Parts

WRONG = CLASSIFICATION.train  # together with the losses among an epoch's sums


class Run:
    """A run in training.

    key: the run's fingerprint
    folder: of its checkpoints
    environment: what else may change its last bits
    """

    def __init__(
        self,
        key: str,
        learner: Learner,
        recipe: Recipe,
        folder: Path,
        environment: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.key, self.learner, self.recipe, self.folder = key, learner, recipe, folder
        self.environment = dict(environment)
        self.history: list[Row] = []
        # that it was trained in, one after the other
        self.environments: list[dict[str, Any]] = [self.environment]
        self.diverged: Diverged | None = None
        self.failed: Exception | None = None  # what torch raised in a step, such as out of memory
        self.pruned = False  # stopped early by a search, between epochs
        self.steps = 1  # of the epoch
        # sums over an epoch stay on the device: one synchronisation an epoch
        device = next(learner.parameters()).device
        self._sums = {name: torch.zeros((), device=device) for name in (*learner.objective.names, WRONG)}
        # that each phase has seen in the epoch, where each has its own batches
        self._images = [0] * len(learner.phases)

    def resume(self) -> None:
        """Continue from the last checkpoint, where there is one."""
        if (state := checkpoint.load(self.folder)) is not None:
            self.learner.load_state(state)
            self.history, self.environments = state["history"], state["environments"]
            if self.environments[-1:] != [self.environment]:
                self.environments.append(self.environment)

    @property
    def epoch(self) -> int:
        """The epoch to train next."""
        return len(self.history)

    @property
    def done(self) -> bool:
        ended = self.pruned or self.diverged is not None or self.failed is not None
        return ended or self.epoch >= self.recipe.epochs

    def open_epoch(self, steps: int = 1) -> None:
        """steps: how many the epoch has, which a rate that changes by steps depends on"""
        self.steps = steps
        self.learner.open_epoch(self.epoch, self.recipe.learning_rate_at(self.epoch, 0, steps))
        for total in self._sums.values():
            total.zero_()
        self._images = [0] * len(self._images)

    def before_step(self, batch: Batch) -> None:
        """What a recorded CUDA graph only reads: the rate, and what losses draw."""
        if self.recipe.rate_per == "step":
            self.learner.set_rate(self.recipe.learning_rate_at(self.epoch, batch.step, self.steps))
        self.learner.objective.before_step(batch)

    def step(self, batch: Batch, teachers: Mapping[str, Features], parts: Parts) -> None:
        """One update of every phase; with several draws, of the phase whose batch this is."""
        learner = self.learner
        count = len(learner.phases)
        for phase in range(count) if learner.draws == 1 else (batch.step % count,):
            outputs, losses = learner.backward(batch, teachers, parts, phase)
            learner.step(phase)
            for name, value in losses.items():
                self._sums[name].add_(value, alpha=len(batch.labels))
            self._images[phase] += len(batch.labels)
        wrong = (outputs.each[learner.deployed].logits.detach().argmax(1) != batch.labels).sum()
        self._sums[WRONG].add_(wrong)

    def close_epoch(self, images: int, evaluation: Evaluation) -> Row | None:
        """The epoch's row of the history; None, and `diverged` is set, if a number is not finite.

        images: how many there were in the epoch
        """
        means = {
            name: self._sums[name].item() / self._counted(name, images)
            for name in self.learner.objective.active
        }
        means[WRONG] = self._sums[WRONG].item() / images
        learning_rate = self.recipe.learning_rate_at(self.epoch, 0, self.steps)  # of the epoch's first step
        bad = [f"loss {name} is {value}" for name, value in means.items() if not math.isfinite(value)]
        if not bad and not all(bool(torch.isfinite(p).all()) for p in self.learner.parameters()):
            bad = ["a weight is not finite"]
        # BatchNorm may overflow in eval mode alone
        metrics = {} if bad else evaluation.row(self.learner.alone()) | self.learner.metrics(evaluation)
        bad += [
            f"{name} is {value}"
            for name, value in metrics.items()
            if not torch.tensor(list(value.values()) if isinstance(value, dict) else value).isfinite().all()
        ]
        if bad:
            self.diverged = Diverged(
                f"{' and '.join(bad)} in epoch {self.epoch} at learning rate {learning_rate:g}"
            )
            return None
        weights = {
            name: term.weight.at(self.epoch) for name, term in sorted(self.learner.objective.method.items())
        }
        wrong = 100 * means.pop(WRONG)
        row = {
            "epoch": self.epoch,
            "learning_rate": learning_rate,
            "weights": weights,
            "losses": means,
            WRONG: wrong,
        }
        self.history.append(row | metrics)
        return self.history[-1]

    def _counted(self, name: str, images: int) -> int:
        """How many images a loss's sum is over, after an epoch of `images`.

        The loss of a network is computed in the network's phase alone.
        """
        phases, network = self.learner.phases, self.learner.objective.losses[name].network
        if self.learner.draws == 1:
            return images * (len(phases) if network is None else 1)
        return (
            images
            if network is None
            else max(1, sum(n for n, one in zip(self._images, phases, strict=True) if network in one))
        )

    def save(self) -> None:
        state = self.learner.state() | {"history": self.history, "environments": self.environments}
        checkpoint.save(self.folder, self.epoch, state)

    def weights(self) -> bytes:
        """The deployed network alone, without the losses' learned parts, as safetensors."""
        state = self.learner.alone().state_dict()
        return to_safetensors({name: value.contiguous().cpu() for name, value in state.items()})
