"""The one loop: a cohort of students against one teacher. A teacher's own training is a cohort of one with no teacher.

A student's result is the same bits alone and in any company: everything random is a function of (seed, epoch, step),
and the students share nothing but the batch and the frozen teacher's features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn import functional

from cdkd import checkpoint
from cdkd.data.batches import Batch, Batches, Split, evaluation
from cdkd.data.randomness import stream_seed
from cdkd.errors import Diverged
from cdkd.models.build import build
from cdkd.models.features import Features
from cdkd.objective import Objective
from cdkd.schedule import Method
from cdkd.schema import Training

Row = dict[str, Any]


def network(name: str, data: Mapping[str, Any], seed: int, device: torch.device) -> nn.Module:
    """A network for these classes and channels, initialised from the seed: the same for every method of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed("initial weights", seed))
        model = build(name, data["classes"], data["image"][2])
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class Teacher:
    """A frozen network. `batchnorm="train"` is the released code of CD: batch statistics, and running ones that drift."""

    def __init__(self, model: nn.Module, batchnorm: str = "eval") -> None:
        self.model = model.requires_grad_(False).train(batchnorm == "train")

    def __call__(self, images: Tensor) -> Features:
        with torch.no_grad():  # not inference_mode: its tensors may not be kept for a student's backward pass
            features: Features = self.model(images)
            return features


class Run:
    """One student in training: what it is, what it has become, and its history."""

    def __init__(self, key: str, method: Method, training: Training, model: nn.Module, seed: int, sample: Batch, teacher: Teacher | None, folder: Path) -> None:
        """key: the run's fingerprint; sample: a batch, for the shapes of features; folder: where its checkpoints lie."""
        self.key, self.training, self.model, self.folder = key, training, model, folder
        model.eval()  # the sample must not touch BatchNorm's statistics
        with torch.no_grad():
            seen: Features = model(sample.images)
        self.objective = Objective(method, seen, teacher(sample.images) if teacher else None, seed).to(sample.images.device)
        self.optimizer = torch.optim.SGD(
            [*model.parameters(), *self.objective.parameters()],
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.nesterov,
        )
        self.history: list[Row] = []
        self.diverged: Diverged | None = None
        self._meter: dict[str, Tensor] = {}
        self._seen = 0
        if (state := checkpoint.load(folder)) is not None:
            model.load_state_dict(state["model"])
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history = state["history"]

    @property
    def epoch(self) -> int:
        """The epoch to train next."""
        return len(self.history)

    @property
    def done(self) -> bool:
        return self.diverged is not None or self.epoch >= self.training.epochs

    def open_epoch(self) -> None:
        self.model.train()
        self.objective.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate_at(self.epoch)
        self._meter, self._seen = {}, 0

    def step(self, batch: Batch, teacher: Features | None) -> None:
        student: Features = self.model(batch.images)
        total, losses = self.objective(student, teacher, batch.labels, self.epoch)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        # sums stay on the device: one synchronisation an epoch
        wrong = (student.logits.detach().argmax(1) != batch.labels).sum()
        for name, value in (*losses.items(), ("wrong", wrong / len(batch.labels))):
            self._meter[name] = self._meter.get(name, 0.0) + value * len(batch.labels)
        self._seen += len(batch.labels)

    def close_epoch(self, test: Split) -> Row | None:
        """The epoch's row of the history; None, and `diverged` set, where a number stopped being finite."""
        means = {name: value.item() / self._seen for name, value in self._meter.items()}
        learning_rate = self.training.learning_rate_at(self.epoch)
        bad = [f"loss {name} is {value}" for name, value in means.items() if not math.isfinite(value)]
        if not bad and not all(bool(torch.isfinite(p).all()) for p in (*self.model.parameters(), *self.objective.parameters())):
            bad = ["a weight is not finite"]
        if bad:
            self.diverged = Diverged(f"{' and '.join(bad)} in epoch {self.epoch} at learning rate {learning_rate:g}")
            return None
        weights = {name: weight.at(self.epoch) for name, weight in self.objective.weights.items()}
        wrong = means.pop("wrong")
        row = {"epoch": self.epoch, "learning_rate": learning_rate, "weights": weights, "losses": means, "train_top1_error": 100 * wrong}
        self.history.append(row | evaluate(self.model, test, self.training))
        return self.history[-1]

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "objective": self.objective.state_dict(), "optimizer": self.optimizer.state_dict()}
        checkpoint.save(self.folder, self.epoch, state | {"history": self.history})

    def weights(self) -> bytes:
        """The student alone, without connectors, as safetensors."""
        return to_safetensors({name: value.contiguous().cpu() for name, value in self.model.state_dict().items()})


def evaluate(model: nn.Module, split: Split, training: Training) -> Row:
    """Errors in percent and mean cross-entropy on a split, in eval mode."""
    model.eval()
    loss, right1, right5 = (torch.zeros((), dtype=torch.float64, device=split.device) for _ in range(3))
    with torch.inference_mode():
        for batch in evaluation(split, training.augmentation):
            logits = model(batch.images).logits.float()
            loss += functional.cross_entropy(logits, batch.labels, reduction="sum")
            hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[:, None]
            right1 += hits[:, 0].sum()
            right5 += hits.sum()
    count = len(split)
    return {
        "test_top1_error": 100 * (count - right1.item()) / count,
        "test_top5_error": 100 * (count - right5.item()) / count,
        "test_loss": loss.item() / count,
    }


def train(
    cohort: Sequence[Run],
    teacher: Teacher | None,
    batches: Batches,
    test: Split,
    seed: int,
    *,
    checkpoint_seconds: float = 30.0,
    closed: Callable[[Run, Row | None], None] = lambda run, row: None,
) -> None:
    """Train every run of the cohort to its end. Runs resumed at different epochs join when theirs comes.

    checkpoint_seconds: least time between checkpoints, which lie at epoch edges; `closed` hears of every epoch.
    """
    saved = time.monotonic()
    for epoch in range(min((run.epoch for run in cohort if not run.done), default=0), max((run.training.epochs for run in cohort), default=0)):
        active = [run for run in cohort if run.epoch == epoch and not run.done]
        if not active:
            continue
        for run in active:
            run.open_epoch()
        for batch in batches.epoch(seed, epoch):
            features = teacher(batch.images) if teacher else None
            for run in active:
                run.step(batch, features)
        keep = time.monotonic() - saved >= checkpoint_seconds
        for run in active:
            row = run.close_epoch(test)
            if row is not None and (keep or run.done):  # a diverged state never replaces a sound one
                run.save()
            closed(run, row)
        if keep:
            saved = time.monotonic()
