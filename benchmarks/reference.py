"""The loop as the field writes it: one student, PIL images, a DataLoader, eager float32.

    python -m benchmarks.reference --batch 64 --steps 4

Written from the habits that the public distillation repositories share, none of them copied: torchvision
transforms on one image at a time, worker processes, the teacher run again for every batch under `no_grad`,
`.item()` of loss and accuracy in every step, an evaluation at the end of each epoch. The networks are
`cdkd.models`', so that both sides of a comparison train the same ones; nothing else of this project is used
for training.

Prints one line of JSON. `images_per_second_per_student` is by the processor time of the training process
alone: the time of the loader's workers is not in it, which flatters this loop; `workers_seconds` is
that time.
"""

from __future__ import annotations

import argparse
import math
import resource
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import images
from benchmarks.clock import Clock, Spent, children_seconds, peak_mb, report, since_start
from benchmarks.options import parse, parser
from benchmarks.stand_in import as_if_trained
from cdkd.models.build import build

TEMPERATURE = 4.0


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """As torchvision's CIFAR100: arrays in memory, one made into a PIL image and transformed when it is asked
    for.
    """

    def __init__(self, source: images.Images, transform: transforms.Compose) -> None:
        self.data, self.targets, self.transform = source.pixels, source.labels.tolist(), transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]

    def __len__(self) -> int:
        return len(self.targets)


def augmented(side: int) -> transforms.Compose:
    """Crop and flip of one PIL image, and the tensor of it."""
    return transforms.Compose(
        [transforms.RandomCrop(side, padding=4), transforms.RandomHorizontalFlip(), *_normalised()]
    )


def _normalised() -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(images.MEAN, images.STD)]


def loaders(options: argparse.Namespace, pixels: images.Pixels) -> tuple[DataLoader[Any], DataLoader[Any]]:
    train = Pictures(images.load("train", options.images, pixels, options.side), augmented(options.side))
    test = Pictures(
        images.load("test", options.evaluate, pixels, options.side), transforms.Compose(_normalised())
    )
    return (
        DataLoader(
            train, batch_size=options.batch, shuffle=True, num_workers=options.workers, drop_last=True
        ),
        DataLoader(test, batch_size=options.batch, shuffle=False, num_workers=options.workers),
    )


def train_step(
    student: nn.Module,
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    autocast: bool,
) -> tuple[float, float]:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = student(x).logits
        with torch.no_grad():
            soft = teacher(x).logits
    logits, soft = logits.float(), soft.float()
    hard = F.cross_entropy(logits, y)
    kd = (
        F.kl_div(
            F.log_softmax(logits / TEMPERATURE, dim=1),
            F.softmax(soft / TEMPERATURE, dim=1),
            reduction="batchmean",
        )
        * TEMPERATURE**2
    )
    loss = 0.1 * hard + 0.9 * kd
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item(), 100 * (logits.argmax(dim=1) == y).float().mean().item()


def evaluate(model: nn.Module, loader: DataLoader[Any]) -> float:
    """Top-1 accuracy in percent."""
    model.eval()
    right = seen = 0
    with torch.no_grad():
        for x, y in loader:
            right += (model(x).logits.argmax(dim=1) == y).sum().item()
            seen += len(y)
    return 100 * right / seen


def measure(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    pixels = images.choose(options.pixels, options.side)
    train, test = loaders(options, pixels)
    some = images.load("train", 64, pixels, options.side)
    teacher = as_if_trained(build(options.teacher, images.CLASSES), some)
    student = build(options.student, images.CLASSES)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    autocast = options.precision == "bf16"
    training, idle, evaluation = Clock(), Clock(), Clock()
    first: Spent | None = None
    before, step, losses, accuracies, tested = children_seconds(), 0, [], [], []
    total, epoch = options.warmup + options.steps, len(train)
    for start in range(0, total, epoch):
        student.train()
        batches = iter(train)  # starts the workers, as every epoch does
        for _ in range(min(epoch, total - start)):
            with training if step >= options.warmup else idle:
                x, y = next(batches)
                loss, accuracy = train_step(student, teacher, optimizer, x, y, autocast=autocast)
            first = first or since_start()
            losses.append(loss)
            accuracies.append(accuracy)
            step += 1
        del batches  # ends the workers, so that their time is known
        workers = children_seconds() - before
        with evaluation:
            tested.append(evaluate(student, test))
        before = children_seconds() - workers  # the evaluation's workers are not training's
    trained = options.steps * options.batch
    return {
        "variant": "reference",
        "pair": f"{options.teacher}->{options.student}",
        "batch": options.batch,
        "students": 1,
        "methods": "kd",
        "precision": options.precision,
        "engine": "eager",
        "cache": "off",
        "pixels": pixels,
        "images": options.images,
        "steps": options.steps,
        "threads": options.threads,
        "workers": options.workers,
        "images_per_second_per_student": trained / training.processor,
        "wall_images_per_second_per_student": trained / training.wall,
        "workers_seconds": workers if options.workers else 0.0,
        # where an epoch was left early the workers had gone ahead, and nobody knows how far
        "workers_images_per_second": total * options.batch / workers
        if options.workers and total % epoch == 0
        else None,
        "evaluation_images": options.evaluate,
        "evaluation_seconds": evaluation.processor / len(tested),
        "evaluation_wall_seconds": evaluation.wall / len(tested),
        "first_step_seconds": first and first.wall,
        "first_step_processor_seconds": first and first.processor,
        "peak_mb": peak_mb(),
        "workers_peak_mb": peak_mb(resource.RUSAGE_CHILDREN) if options.workers else None,
        "last_loss": losses[-1] if math.isfinite(losses[-1]) else None,
    }


def main(words: Sequence[str] | None = None) -> None:
    options = parser("the distillation loop as the field writes it, measured")
    options.add_argument(
        "--workers",
        type=int,
        default=2,
        help="of each DataLoader; 0: images are made in the training process",
    )
    options.add_argument(
        "--precision",
        choices=["float32", "bf16"],
        default="float32",
        help="bf16: the one line of autocast that many add; %(default)s",
    )
    report(measure(parse(options, words)))


if __name__ == "__main__":
    main()
