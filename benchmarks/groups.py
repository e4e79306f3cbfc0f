"""What a step of a group costs, against what its multiply-adds say.

    python -m benchmarks.groups
    python -m benchmarks.groups --experiment digits-online --side 8 --batch 64
    python -m benchmarks.groups one okddip --batch 16

Every method of an online experiment trains one batch, all in turn, round after round, on one thread; numbers
are medians of processor time. `expected` is the ratio to the lone student by multiply-adds: a layer of which
something learns costs its forward pass and twice that in the backward pass (once where nothing before it
learns), and a layer of which nothing learns (moving averages, the network whose turn it is not) the forward
pass alone. `over` is measured by expected: 1.15 is 15 % more than the multiply-adds say. The frozen teacher's
pass is not in it: a cohort pays it once for all.

Measured on 2 cores of an AMD EPYC that others used, batch 16, 7 rounds (measured, expected, over): dml 2.64,
2.67, 0.99; dml_okddip 4.06, 4.00, 1.01; cl_ilr 1.56, 1.65, 0.94; one 1.57, 1.65, 0.95; one_okddip 1.87, 1.98,
0.94; okddip 1.87, 1.98, 0.94; pcl 3.93, 4.00, 0.98; css 4.35, 4.68, 0.93.
On 2 cores of an Intel Xeon that others used, batch 16, 5 rounds: dml 2.55, 2.67, 0.95; dml_okddip 3.92, 4.00,
0.98; cl_ilr 1.53, 1.65, 0.93; one 1.57, 1.65, 0.95; one_okddip 1.81, 1.98, 0.91; okddip 1.80, 1.98, 0.91; pcl
3.89, 4.00, 0.97; css 4.16, 4.68, 0.89; batch 64, 3 rounds: pcl 3.97, 4.00, 0.99; css 4.08, 4.68, 0.87.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.clock import Clock
from benchmarks.images import ROOT
from benchmarks.ours import always_on
from cdkd.config.experiments import Experiments
from cdkd.core.batch import Batch, DataInfo
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.core.schedule import Method, Recipe
from cdkd.training.cohort import student_run
from cdkd.training.environment import keep_freed_memory
from cdkd.training.learner import Learner
from cdkd.training.run import Run
from cdkd.training.setup import network
from cdkd.training.teacher import Teacher

EXPERIMENT, CLASSES, STUDENT = "cifar100-online-resnet32", 100, "student"
CPU = torch.device("cpu")


class Timed(NamedTuple):
    run: Run
    batches: Sequence[Batch]  # of one update of all networks
    teachers: Mapping[str, Features]

    def step(self) -> None:
        for batch in self.batches:
            self.run.before_step(batch)
            self.run.step(batch, self.teachers, {})


def batches_of(learner: Learner, batch: int, side: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(0)
    found = []
    for step in range(learner.draws):
        shown = torch.randn(learner.views, batch, 3, side, side, generator=draw)
        views = tuple(view.contiguous(memory_format=torch.channels_last) for view in shown)
        labels = torch.randint(CLASSES, (batch,), generator=draw)
        found.append(Batch(views, labels, torch.arange(batch), None, 0, 0, step))
    return found


def work(learner: Learner, batches: Sequence[Batch]) -> int:
    """Multiply-adds of one update: forward passes, and backward passes through layers that learn.

    They are counted with the batches of the update, and the weights stay as they are.
    """
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        backward = 1 + inputs[0].requires_grad if output.requires_grad else 0
        total += output.numel() * layer.get_parameter("weight")[0].numel() * (1 + backward)

    hooks = [
        layer.register_forward_hook(add)
        for module in (learner.networks, getattr(learner, "averages", nn.ModuleDict()))
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        for phase in range(len(learner.phases)):
            batch = batches[phase % len(batches)]
            if len(learner.phases) == 1:
                learner(batch.views)
            else:
                learner(batch.views, learner.phases[phase])  # type: ignore[call-arg]
    finally:
        for hook in hooks:
            hook.remove()
    return total


def networks(method: Method, student: str, shape: Mapping[str, object]) -> nn.Module | dict[str, nn.Module]:
    if method.group is None:
        return network(student, shape, 0, CPU)
    return {
        name: network(kind, shape, 0, CPU, f"weights of {name}")
        for name, kind in method.group.networks.items()
    }


def made(options: argparse.Namespace, folder: Path) -> dict[str, Timed]:
    """The lone student first, and every method with a group."""
    params = Experiments(ROOT).load(options.experiment)
    recipe: Recipe = replace(params.training.resolved, batch=options.batch)
    shape = {"classes": CLASSES, "image": [options.side, options.side, 3]}
    teacher = Teacher(network(params.teacher.network, shape, 9, CPU), recipe)
    methods = {name: one for name, one in params.methods.items() if one.group is not None}
    chosen = options.methods or list(methods)
    if unknown := [name for name in chosen if name not in methods]:
        raise SystemExit(
            f"{', '.join(unknown)}: no group of {options.experiment}; it has {', '.join(methods)}"
        )
    found = {}
    for name in (STUDENT, *chosen):
        method = always_on(params.methods[name])
        data = DataInfo(50_000, CLASSES, torch.arange(50_000) % CLASSES, options.batch)
        sample = Batch((torch.zeros(2, 3, options.side, options.side),), *2 * (torch.arange(2),))
        built = networks(method, params.student.network, shape)
        run = student_run(
            name, built, method, recipe, 0, sample, {"teacher": teacher}, folder / name, data=data
        )
        run.open_epoch()
        batches = batches_of(run.learner, options.batch, options.side)
        needs = run.learner.objective.needs(0, "teacher")
        teachers = {"teacher": teacher(batches[0], needs)} if needs != Needs.NOTHING else {}
        found[name] = Timed(run, batches, teachers)
    return found


class Line(NamedTuple):
    name: str
    milliseconds: float  # of one update of all networks
    measured: float  # times the lone student's
    expected: float

    @property
    def over(self) -> float:
        return self.measured / self.expected


def measure(timed: Mapping[str, Timed], rounds: int) -> list[Line]:
    expected = {name: work(one.run.learner, one.batches) for name, one in timed.items()}
    spent: dict[str, list[float]] = {name: [] for name in timed}
    for one in timed.values():
        one.step()
    for _ in range(rounds):
        for name, one in timed.items():
            with Clock() as clock:
                one.step()
            spent[name].append(1e3 * clock.processor)
    alone = spent[STUDENT]
    return [
        Line(
            name,
            statistics.median(times),
            statistics.median(mine / lone for mine, lone in zip(times, alone, strict=True)),
            expected[name] / expected[STUDENT],
        )
        for name, times in spent.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("methods", nargs="*", help="default: every method with a group")
    parser.add_argument("--experiment", default=EXPERIMENT)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{'method':18}{'ms':>9}{'measured':>10}{'expected':>10}{'over':>7}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for line in measure(made(options, Path(folder)), options.rounds):
            times = f"{line.measured:>9.2f}x{line.expected:>9.2f}x{line.over:>7.2f}"
            print(f"{line.name:18}{line.milliseconds:>9.1f}{times}")


if __name__ == "__main__":
    main()
