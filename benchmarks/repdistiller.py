"""This project's loop beside RepDistiller's own: its `train_distill`, in a clone that you name.

    git clone https://github.com/HobbitLong/RepDistiller ../RepDistiller
    python -m benchmarks.repdistiller ../RepDistiller

RepDistiller trains one student with KD: as it is, and under one line of bfloat16 autocast. This project
trains one and several. Each measurement is a process of its own with one thread; all take turns, round after
round. Numbers are images per second and student by processor time, medians over the rounds; ratios are to
RepDistiller as it is, with the same pair.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import images
from benchmarks.clock import Clock, report
from benchmarks.reference import Pictures, augmented
from benchmarks.run import ONE_THREAD, RATE, ROOT
from cdkd.storage.progress import Progress

BATCH = 64
PAIRS = {"resnet32x4 resnet8x4": 8, "resnet20 resnet8": 11}  # and how many methods are trained together


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


def theirs(folder: Path, teacher: str, student: str, steps: int, *, autocast: bool) -> float:
    """Images per second of RepDistiller's own loop; images are made in the process."""
    sys.path.insert(0, str(folder))
    models, loops = importlib.import_module("models"), importlib.import_module("helper.loops")
    kd = importlib.import_module("distiller_zoo").DistillKL(4)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks = [models.model_dict[name](num_classes=images.CLASSES) for name in (student, teacher)]
    optimiser = torch.optim.SGD(networks[0].parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    options = SimpleNamespace(distill="kd", gamma=0.1, alpha=0.9, beta=0, print_freq=10**9)

    def train(count: int) -> None:
        source = images.load("train", count * BATCH, images.choose("auto"))
        loader = DataLoader(
            WithIndex(Pictures(source, augmented(images.SIDE))), batch_size=BATCH, shuffle=True
        )
        with contextlib.redirect_stdout(io.StringIO()), torch.autocast("cpu", enabled=autocast):
            loops.train_distill(
                1, loader, networks, [nn.CrossEntropyLoss(), kd, NoLoss()], optimiser, options
            )

    train(1)
    with Clock() as clock:
        train(steps)
    return steps * BATCH / clock.processor


def variants(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Pair, name and command of each measurement."""
    for pair, several in PAIRS.items():
        teacher, student = pair.split()
        own = ["benchmarks.repdistiller", str(folder), "--measure", teacher, student]
        yield pair, "RepDistiller", own
        yield pair, "RepDistiller, autocast", [*own, "--autocast"]
        for precision in ("float32", "bf16"):
            for cache in ("off", "warm"):
                for count in (1, several):
                    words = ["--teacher", teacher, "--student", student, "--students", str(count)]
                    words += ["--precision", precision, "--cache", cache, "--batch", str(BATCH)]
                    name = f"K = {count}, {precision}" + (", warm cache" if cache == "warm" else "")
                    yield pair, name, ["benchmarks.ours", *words]


def measured(command: list[str], steps: int) -> float:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--steps", str(steps)],
        cwd=ROOT,
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return float(json.loads(done.stdout.splitlines()[-1])[RATE])


def table(rates: dict[tuple[str, str], list[float]]) -> str:
    lines = []
    for (pair, name), found in rates.items():
        rate, base = statistics.median(found), statistics.median(rates[pair, "RepDistiller"])
        spread = f"{min(found):.1f} - {max(found):.1f}"
        lines.append(f"{pair:22} {name:28} {rate:8.1f}  x{rate / base:.2f}  {spread}")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description="this project's loop beside RepDistiller's own")
    options.add_argument("folder", type=Path, help="a clone of RepDistiller")
    options.add_argument("--rounds", type=int, default=3, help="%(default)s")
    options.add_argument("--steps", type=int, default=3, help="steps of a measurement; %(default)s")
    options.add_argument("--measure", nargs=2, metavar=("TEACHER", "STUDENT"), help=argparse.SUPPRESS)
    options.add_argument("--autocast", action="store_true", help=argparse.SUPPRESS)
    found = options.parse_args()
    folder = found.folder.resolve()
    if not (folder / "helper" / "loops.py").is_file():
        options.error(f"{found.folder}: no clone of RepDistiller; expected helper/loops.py in it")
    if found.measure:
        rate = theirs(folder, *found.measure, found.steps, autocast=found.autocast)
        report({RATE: rate})
        return
    chosen = list(variants(folder))
    rates: dict[tuple[str, str], list[float]] = {(pair, name): [] for pair, name, _ in chosen}
    with Progress("measuring") as progress:
        for turn in range(found.rounds):
            for place, (pair, name, command) in enumerate(chosen if turn % 2 == 0 else chosen[::-1]):
                rates[pair, name].append(measured(command, found.steps))
                progress.count(turn * len(chosen) + place + 1, found.rounds * len(chosen), f", {name}")
    print(table(rates))


if __name__ == "__main__":
    main()
