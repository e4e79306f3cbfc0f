"""Each loss of one network alone: milliseconds of a step, so that the next slow one is seen.

    python -m benchmarks.losses
    python -m benchmarks.losses cd at --batch 8
    python -m benchmarks.losses --teacher resnet34-imagenet --student resnet18-imagenet --side 224 --batch 8
    python -m benchmarks.losses --teacher resnet20 --student resnet8 --side 8

A loss is found by existing. Its forward and backward pass end at the student's features, and these stand
behind a ReLU, as they do in most networks: its backward pass reads the gradient in the layout in which the
loss leaves it. What depends on the teacher alone is a column of its own: a cohort pays it once. Losses take
turns, round after round, on one thread; numbers are medians of processor time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import Clock
from cdkd.core.batch import Batch, DataInfo
from cdkd.core.features import Features, Outputs
from cdkd.core.needs import Needs
from cdkd.core.schedule import Method, Term, Weight
from cdkd.losses import signature
from cdkd.models.build import build
from cdkd.models.forward import asked
from cdkd.training.environment import keep_freed_memory
from cdkd.training.learner import STUDENT
from cdkd.training.objective import Objective, Parts

CLASSES, IMAGES = 100, 50_000  # as CIFAR-100, for the losses that keep something of each image
EVERYTHING = ~Needs.NOTHING
OPTIONS: dict[str, dict[str, Any]] = {"ft": {"paraphraser_epochs": 0}}  # its steps after the paraphraser's


def names() -> list[str]:
    """The losses of one network."""
    return [name for name in signature.names() if not signature.is_group(name)]


def features(network: str, images: Tensor, precision: str) -> Features:
    model = build(network, CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found: Features = asked(model, images, EVERYTHING)
        return found


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
        self.objective.add_parts(self.teachers, parts)
        return parts

    def step(self, parts: Parts) -> None:
        self.objective.zero_grad()
        outputs = Outputs({STUDENT: Features(*(behind_relu(one) for one in self.student))})
        total, _ = self.objective(outputs, self.teachers, self.batch, parts)
        total.backward()

    def times(self) -> tuple[float, float]:
        """Milliseconds of what depends on the teacher alone, and of the rest."""
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


def measured(losses: Sequence[Alone], rounds: int) -> list[tuple[float, float]]:
    """Medians of each loss's two times; a first round is not counted."""
    found = [[one.times() for one in losses] for _ in range(rounds + 1)][1:]
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
    student, teacher = (features(name, images, chosen.precision) for name in (chosen.student, chosen.teacher))
    which, alone = [], []
    for name in chosen.losses or names():
        try:
            alone.append(Alone(name, student, teacher, batch))
            which.append(name)
        except ValueError as error:  # a loss that does not fit these two networks
            print(f"{name:12} left out: {error}")
    pair = f"{chosen.teacher} -> {chosen.student}"
    print(f"{pair}, {chosen.side} pixels, batch {chosen.batch}, {chosen.precision}")
    print(f"{'':12} {'ms of a step':>12} {'and of the teacher alone':>25}")
    for name, (part, rest) in sorted(zip(which, measured(alone, chosen.rounds), strict=True), key=_slowest):
        print(f"{name:12} {rest:12.2f} {part:25.2f}")


def _slowest(row: tuple[str, tuple[float, float]]) -> float:
    return -sum(row[1])


if __name__ == "__main__":
    main()
