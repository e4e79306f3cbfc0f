"""One run in training: its learner, its history, and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
from cdkd.training.ranks import Exchanged

WRONG = CLASSIFICATION.train  # together with the losses among an epoch's sums


class Run:
    """A run in training.

    key: the run's fingerprint
    folder: of its checkpoints; None: it has none
    environment: what else may change its last bits
    """

    def __init__(
        self,
        key: str,
        learner: Learner,
        recipe: Recipe,
        folder: Path | None,
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
        self.position = 0  # steps of the epoch that are done
        # sums over an epoch stay on the device: one synchronisation an epoch
        device = next(learner.parameters()).device
        self._sums = {name: torch.zeros((), device=device) for name in (*learner.objective.names, WRONG)}
        # that each phase has seen in the epoch, where each has its own batches
        self._images = [0] * len(learner.phases)

    def resume(self) -> None:
        """Continue from the last checkpoint, where there is one."""
        if self.folder is not None and (state := checkpoint.load(self.folder)) is not None:
            self.load_state(state)
            if self.environments[-1:] != [self.environment]:
                self.environments.append(self.environment)

    def state(self) -> dict[str, Any]:
        """Everything that its further steps depend on."""
        return self.learner.state() | {
            "history": self.history,
            "environments": self.environments,
            "position": self.position,
            "sums": self._sums,
            "images": self._images,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state(state)
        self.history, self.environments = list(state["history"]), list(state["environments"])
        self.position = state.get("position", 0)  # older states lack it: all are between epochs
        if self.position:
            self._images = list(state["images"])
            for name, total in self._sums.items():
                total.copy_(state["sums"][name])

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
        rate = self.recipe.learning_rate_at(self.epoch, 0, steps)
        self.learner.open_epoch(self.epoch, rate, begun=self.position > 0)
        if self.position == 0:
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
        for _ in self.updates(batch, teachers, parts):
            pass

    def updates(self, batch: Batch, teachers: Mapping[str, Features], parts: Parts) -> Iterator[Exchanged]:
        """The same, which pauses before each update of weights, with what ranks exchange then."""
        learner = self.learner
        count = len(learner.phases)
        for phase in range(count) if learner.draws == 1 else (batch.step % count,):
            outputs, losses = learner.backward(batch, teachers, parts, phase)
            wrong = (outputs.each[learner.deployed].logits.detach().argmax(1) != batch.labels).sum()
            if batch.share is not None:
                yield Exchanged([*learner.averaged(phase), *losses.values()], [wrong])
            learner.step(phase)
            for name, value in losses.items():
                self._sums[name].add_(value, alpha=batch.total)
            self._images[phase] += batch.total
        self._sums[WRONG].add_(wrong)

    def close_epoch(self, images: int, evaluation: Evaluation) -> Row | None:
        """The epoch's row of the history; None, and `diverged` is set, if a number is not finite.

        images: how many there were in the epoch
        """
        self.position = 0
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

    def follow(self, rows: list[Row], *, ended: bool) -> None:
        """What rank 0 found at the end of the epoch. rows: the last of its history"""
        self.position = 0
        if ended and (not rows or rows[-1]["epoch"] < self.epoch):
            self.diverged = Diverged("found by rank 0")
            return
        self.history += rows
        self.pruned = ended and self.epoch < self.recipe.epochs

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
        """Write a checkpoint, unless torch has given up in a step."""
        if self.folder is not None and self.failed is None:
            checkpoint.save(self.folder, self.epoch, self.state(), self.position)

    def clear(self) -> None:
        """Remove its checkpoints."""
        if self.folder is not None:
            checkpoint.clear(self.folder)

    def weights(self) -> bytes:
        """The deployed network alone, without the losses' learned parts, as safetensors."""
        state = self.learner.alone().state_dict()
        return to_safetensors({name: value.contiguous().cpu() for name, value in state.items()})
