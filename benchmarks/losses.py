"""A step in pieces: each loss of one network alone, so that the next slow one is seen, and the networks.

    python -m benchmarks.losses
    python -m benchmarks.losses cd at --batch 8
    python -m benchmarks.losses --teacher resnet34-imagenet --student resnet18-imagenet --side 224 --batch 8
    python -m benchmarks.losses --teacher resnet20 --student resnet8 --side 8

A loss is found by existing. Its forward and backward pass end at the student's features, and these stand
behind a ReLU, as they do in most networks: its backward pass reads the gradient in the layout in which the
loss leaves it. What depends on the teacher alone is a column of its own: a cohort pays it once. The teacher's
pass, and the student's forward and backward pass, are rows beside them. All take turns, round after round, on
one thread; numbers are medians of processor time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.clock import Clock
from benchmarks.images import ROOT
from benchmarks.ours import EXPERIMENT
from cdkd.config.experiments import Experiments
from cdkd.core.batch import Batch, DataInfo
from cdkd.core.features import Features, Outputs
from cdkd.core.needs import Needs
from cdkd.core.schedule import Method, Recipe, Term, Weight
from cdkd.losses import signature
from cdkd.models.build import build
from cdkd.models.forward import Forward
from cdkd.training.environment import keep_freed_memory
from cdkd.training.learner import STUDENT
from cdkd.training.objective import Objective, Parts
from cdkd.training.teacher import Teacher

CLASSES, IMAGES = 100, 50_000  # as CIFAR-100, for the losses that keep something of each image
OPTIONS: dict[str, dict[str, Any]] = {"ft": {"paraphraser_epochs": 0}}  # its steps after the paraphraser's


def names() -> list[str]:
    """The losses of one network."""
    return [name for name in signature.names() if not signature.is_group(name)]


class Timed(Protocol):
    def times(self) -> tuple[float, float]:
        """Milliseconds of what a cohort pays once, and of what each of its runs pays."""
        ...


class Student:
    """The student's forward and backward pass."""

    def __init__(self, network: str, recipe: Recipe, images: Tensor) -> None:
        self.model, self.images = made(network), images
        self.forward = Forward(self.model, recipe)

    def features(self) -> Features:
        """In train mode, with everything that a loss may ask for."""
        with torch.no_grad():
            return self.forward(self.images, ~Needs.NOTHING)

    def times(self) -> tuple[float, float]:
        self.model.zero_grad()
        with Clock() as clock:
            self.forward(self.images).logits.float().square().mean().backward()
        return 0.0, 1e3 * clock.processor


class TeachersPass:
    """The teacher's pass, as a cohort makes it."""

    def __init__(self, network: str, recipe: Recipe, images: Tensor) -> None:
        self.teacher, self.images = Teacher(made(network), recipe), images

    def features(self) -> Features:
        return self.teacher(Batch((self.images,), *2 * (torch.arange(len(self.images)),)), ~Needs.NOTHING)

    def times(self) -> tuple[float, float]:
        with Clock() as clock:
            self.teacher.without_maps(self.images)
        return 1e3 * clock.processor, 0.0


def made(network: str) -> nn.Module:
    return build(network, CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class Alone:
    """One loss at the features of one batch."""

    def __init__(self, name: str, student: Features, teacher: Features, batch: Batch) -> None:
        data = DataInfo(IMAGES, CLASSES, torch.arange(IMAGES) % CLASSES, len(batch.labels))
        method = Method({name: Term(Weight(1.0), OPTIONS.get(name, {}))})
        self.student, self.teachers, self.batch = student, {"teacher": teacher}, batch
        self.objective = Objective(method, Outputs({STUDENT: student}), self.teachers, 0, data)
        self.objective.open_epoch(0)
        self.objective.before_step(batch)

    def part(self) -> Parts:
        parts: Parts = {}
        self.objective.add_parts(self.teachers, self.batch, parts)
        return parts

    def step(self, parts: Parts) -> None:
        self.objective.zero_grad()
        outputs = Outputs({STUDENT: Features(*(behind_relu(one) for one in self.student))})
        total, _ = self.objective(outputs, self.teachers, self.batch, parts)
        total.backward()

    def times(self) -> tuple[float, float]:
        with Clock() as alone:
            parts = self.part()
        with Clock() as rest:
            self.step(parts)
        return 1e3 * alone.processor, 1e3 * rest.processor


def behind_relu(one: Any) -> Any:
    """A tensor, or a tuple of them, as the output of an operation that has a gradient."""
    if one is None:
        return None
    return tuple(map(behind_relu, one)) if isinstance(one, tuple) else one.detach().requires_grad_().relu()


def measured(pieces: Sequence[Timed], rounds: int) -> list[tuple[float, float]]:
    """Medians of each piece's two times; a first round is not counted."""
    found = [[one.times() for one in pieces] for _ in range(rounds + 1)][1:]
    return [
        (statistics.median(part for part, _ in column), statistics.median(rest for _, rest in column))
        for column in zip(*found, strict=True)
    ]


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description="each loss alone, milliseconds of a step")
    options.add_argument("losses", nargs="*", help="by name; without any, all of one network")
    options.add_argument("--teacher", default="resnet32x4", help="%(default)s")
    options.add_argument("--student", default="resnet8x4", help="%(default)s")
    options.add_argument("--batch", type=int, default=64, help="%(default)s")
    options.add_argument("--side", type=int, default=32, help="pixels; %(default)s")
    options.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="%(default)s")
    options.add_argument("--rounds", type=int, default=5, help="%(default)s")
    chosen = options.parse_args(words)
    if unknown := set(chosen.losses) - {*names()}:
        options.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(names())}")
    if chosen.batch < 2 or chosen.rounds < 1:
        options.error("--batch: expected at least 2; --rounds: at least 1")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    images = torch.randn(chosen.batch, 3, chosen.side, chosen.side)
    images = images.contiguous(memory_format=torch.channels_last)
    batch = Batch((images,), torch.arange(chosen.batch) % CLASSES, torch.arange(chosen.batch))
    recipe = Experiments(ROOT).load(EXPERIMENT).training.resolved
    recipe = replace(recipe, batch=chosen.batch, precision=chosen.precision)
    networks = Student(chosen.student, recipe, images), TeachersPass(chosen.teacher, recipe, images)
    student, teacher = (one.features() for one in networks)
    which: list[str] = ["(student)", "(teacher)"]
    pieces: list[Timed] = [*networks]
    for name in chosen.losses or names():
        try:
            pieces.append(Alone(name, student, teacher, batch))
            which.append(name)
        except ValueError as error:  # a loss that does not fit these two networks
            print(f"{name:12} left out: {error}")
    pair = f"{chosen.teacher} -> {chosen.student}"
    print(f"{pair}, {chosen.side} pixels, batch {chosen.batch}, {chosen.precision}")
    print(f"{'':12} {'ms a run':>12} {'and once a cohort':>18}")
    for name, (part, rest) in sorted(zip(which, measured(pieces, chosen.rounds), strict=True), key=_slowest):
        print(f"{name:12} {rest:12.2f} {part:18.2f}")


def _slowest(row: tuple[str, tuple[float, float]]) -> float:
    return -sum(row[1])


if __name__ == "__main__":
    main()
