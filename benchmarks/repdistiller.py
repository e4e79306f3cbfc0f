"""RepDistiller's own loop with KD, in a clone that you name; for `benchmarks.run --repdistiller`.

    git clone https://github.com/HobbitLong/RepDistiller ../RepDistiller
    python -m benchmarks.repdistiller ../RepDistiller --batch 64 --steps 4

Its `train_distill` and its networks; with `--precision bf16` under one line of autocast. The images are made
in the process, as `--workers 0` of the reference does. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import images
from benchmarks.clock import Clock, peak_mb, report
from benchmarks.options import clone_of_repdistiller, parse, parser
from benchmarks.reference import Pictures, augmented


class WithIndex(Dataset[tuple[Any, int, int]]):
    """As RepDistiller's data set: an image, its label and its number."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        return (*self.pictures[index], index)


class NoLoss(nn.Module):
    """Stands where RepDistiller has the loss of a method; KD has none besides its own."""

    def forward(self, student: Any, teacher: Any) -> int:
        return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The steps that `--warmup` says, then those that are measured."""
    sys.path.insert(0, str(folder))
    models, loops = importlib.import_module("models"), importlib.import_module("helper.loops")
    kd = importlib.import_module("distiller_zoo").DistillKL(4)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    names = (options.student, options.teacher)
    networks = [models.model_dict[name](num_classes=images.CLASSES) for name in names]
    optimiser = torch.optim.SGD(networks[0].parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    settings = SimpleNamespace(distill="kd", gamma=0.1, alpha=0.9, beta=0, print_freq=10**9)
    losses, pixels = [nn.CrossEntropyLoss(), kd, NoLoss()], images.choose(options.pixels)

    def loader(steps: int) -> DataLoader[Any]:
        source = images.load("train", steps * options.batch, pixels)
        pictures = WithIndex(Pictures(source, augmented(images.SIDE)))
        return DataLoader(pictures, batch_size=options.batch, shuffle=True)

    def train(batches: DataLoader[Any]) -> None:
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16")
        with contextlib.redirect_stdout(io.StringIO()), autocast:
            loops.train_distill(1, batches, networks, losses, optimiser, settings)

    if options.warmup:
        train(loader(options.warmup))
    batches = loader(options.steps)
    with Clock() as clock:
        train(batches)
    trained = options.steps * options.batch
    return {
        "variant": "RepDistiller",
        "pair": f"{options.teacher}->{options.student}",
        "batch": options.batch,
        "methods": "kd",
        "precision": options.precision,
        "pixels": pixels,
        "images": trained,
        "steps": options.steps,
        "threads": options.threads,
        "images_per_second_per_student": trained / clock.processor,
        "wall_images_per_second_per_student": trained / clock.wall,
        "peak_mb": peak_mb(),
    }


def main(words: Sequence[str] | None = None) -> None:
    options = parser("RepDistiller's own loop with KD, measured")
    options.add_argument("folder", type=clone_of_repdistiller, help="a clone of RepDistiller")
    options.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="%(default)s")
    found = parse(options, words)
    report(measure(found, found.folder))


if __name__ == "__main__":
    main()
