"""A cohort that several processes train together, for tests: started as torchrun starts them, or alone.

python -m tests.pipeline.rank_runs FOLDER NAME... [--exact] [--stop N] [--kill RANK STEP] [--averaged LOSS]
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdkd.core.batch import DataInfo
from cdkd.core.errors import CdkdError
from cdkd.core.processes import launched
from cdkd.core.schedule import Method
from cdkd.data.batches import Batches, Split, evaluation
from cdkd.losses.base import loss_class
from cdkd.training import launch
from cdkd.training.cohort import student_run
from cdkd.training.evaluation import Evaluation, Reference
from cdkd.training.loop import train
from cdkd.training.ranks import same_state
from cdkd.training.run import Run
from cdkd.training.setup import network
from cdkd.training.teacher import Teacher
from tests.pipeline import test_train, test_train_groups
from tests.pipeline.test_train import CPU, DATA, TEST, TRAIN

RECIPE = replace(test_train.RECIPE, epochs=2, milestones=(1,), momentum_at_milestones="reset", ranks=2)
# the last batch has two images, of which the second rank gets none, or five
IMAGES = {"": 82, "exact": 85}
METHODS: dict[str, Method] = test_train.METHODS | {
    f"{name} group": method for name, method in test_train_groups.METHODS.items() if method.group is not None
}


class Exact(Split):
    """Pictures in float64."""

    def normalised(self, images: Tensor) -> Tensor:
        return super().normalised(images).double()


def cut(split: Split, images: int, *, exact: bool) -> Split:
    assert isinstance(split.images, Tensor)
    kind = Exact if exact else Split
    return kind(split.images[:images], split.labels[:images], (0.3,), (0.35,), CPU)


def fixed(model: nn.Module) -> None:
    """BatchNorm uses its running statistics from now on, and leaves them."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.__dict__["train"] = partial(_same, module)


def _same(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def trained(arguments: argparse.Namespace) -> list[Run]:
    """Train the cohort; the folder holds its checkpoints."""
    exact, ranks = arguments.exact, None if launched() == 1 else launch.joined()
    images = IMAGES["exact" if exact else ""]
    training, judged = cut(TRAIN, images, exact=exact), cut(TEST, 60, exact=exact)
    teacher = Teacher(network("resnet14", DATA, 99, CPU), RECIPE)
    batches = Batches(training, RECIPE.augmentation, RECIPE.batch, ranks)
    sample = next(evaluation(judged, RECIPE.augmentation, batch=2))
    data = DataInfo(images, 5, training.labels, RECIPE.batch)
    lead = ranks is None or ranks.leads
    runs = []
    for name in arguments.names:
        method = METHODS[name]
        model = network("resnet8", DATA, 0, CPU)
        made: Any = model if method.group is None else test_train_groups.networks(method, 0)
        folder = arguments.folder / name.replace(" ", "-") if lead else None
        runs.append(
            student_run(name, made, method, RECIPE, 0, sample, {"teacher": teacher}, folder, data=data)
        )
        if exact:
            fixed(runs[-1].learner)
    if ranks is not None:
        same_state(ranks, runs)
    reference = Reference(
        [teacher.without_maps(one.images) for one in evaluation(judged, RECIPE.augmentation)]
    )
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        if arguments.kill and (ranks.rank if ranks else 0, steps) == tuple(arguments.kill):
            os.kill(os.getpid(), signal.SIGKILL)
        return bool(steps == arguments.stop)

    judge = Evaluation(judged, RECIPE, reference=reference)
    train(
        runs, {"teacher": teacher}, batches, judge, 0, checkpoint_seconds=0, stop=stop,
        step_checkpoint_seconds=0 if arguments.kill else 600,
    )  # fmt: skip
    return runs


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--stop", type=int)
    parser.add_argument("--kill", type=int, nargs=2)
    parser.add_argument("--averaged")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64 if arguments.exact else torch.float32)
    torch.set_num_threads(1)
    if arguments.averaged:
        loss_class(arguments.averaged).across_ranks = "averaged"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        runs = trained(arguments)
    except CdkdError as error:
        print(error, file=sys.stderr)
        return error.code
    states = {run.key: [run.learner.state_dict(), run.history, run.position] for run in runs}
    torch.save(states, arguments.folder / f"rank-{os.environ.get('RANK', '0')}.pt")
    return 0


def start(count: int, folder: Path, *words: str) -> list[subprocess.Popen[str]]:
    """So many ranks of a cohort, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", "tests.pipeline.rank_runs", str(folder), *words]
    return [
        subprocess.Popen(
            command,
            env=os.environ | (place | {"RANK": str(rank)} if count > 1 else {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(started: list[subprocess.Popen[str]], seconds: float = 300) -> list[tuple[int, str]]:
    """Exit codes and what the processes wrote to stderr. None of them outlives this."""
    try:
        return [(one.wait(seconds), one.communicate()[1]) for one in started]
    finally:
        for one in started:
            one.kill()


if __name__ == "__main__":
    launch.leave(main())
