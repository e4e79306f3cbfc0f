"""What must hold on a device before its speed means anything: the losses' values, and the bits of the loop.

Each check returns how large the error is and raises nothing; `tests/unit/test_cuda.py` and `benchmarks.gpu`
judge by LIMITS.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.features import Features
from cdkd.core.group import Group
from cdkd.core.schedule import Augmentation, Method, Recipe, Term, Weight
from cdkd.data.batches import Batches, Split, evaluation
from cdkd.losses import group_contract, signature
from cdkd.losses.base import Loss, build
from cdkd.training.cohort import student_run
from cdkd.training.evaluation import Evaluation
from cdkd.training.loop import needs_of, train
from cdkd.training.objective import Parts
from cdkd.training.optimiser import SGD
from cdkd.training.run import Run
from cdkd.training.setup import network
from cdkd.training.teacher import Teacher

LIMITS = {"loss": 1e-4, "steps": 10.0}  # errors of float32 against float64: relative; see `steps_error`
DATA = {"classes": 10, "image": [16, 16, 3]}
IMAGES, BATCH = 101, 16  # 6 batches of 16 and one of 5, which is not replayed
PAIR = {"a": "resnet8", "b": "resnet8"}


def branches(count: int, **named: Any) -> Group:
    return Group({f"peer{i}": "resnet8" for i in range(count)}, "peer0", 2, **named)


GATED = {
    "ce": Term(Weight(1.0, start=1)),
    "cd": Term(Weight(6.0, milestones=(1,), decay=0.9)),
    "gkd": Term(Weight(0.1, start=1)),
}
METHODS: dict[str, Method] = {
    "student": Method({"ce": Term(Weight(1.0))}),
    "kd": Method({"ce": Term(Weight(0.1)), "kd": Term(Weight(0.9), {"temperature": 4.0})}),
    "fitnets": Method({"hint": Term(Weight(10.0, stop=1)), "ce": Term(Weight(1.0, start=1))}),
    "at": Method({"ce": Term(Weight(1.0)), "at": Term(Weight(100.0))}),
    "rkd": Method({"ce": Term(Weight(1.0)), "rkd": Term(Weight(1.0))}),
    "edt": Method(GATED),
    "edt_decayed": Method(GATED, inactive="decayed"),
    "dml": Method(
        {"ce": Term(Weight(1.0)), "mutual": Term(Weight(1.0))}, group=Group(PAIR, "a", update="alternate")
    ),
    "one": Method({"ce": Term(Weight(1.0)), "one": Term(Weight(1.0, rise=2))}, group=branches(3)),
    "okddip": Method({"ce": Term(Weight(1.0)), "okddip": Term(Weight(1.0, rise=2))}, group=branches(3)),
    "pcl": Method(
        {"ce": Term(Weight(1.0)), "pcl": Term(Weight(1.0, rise=2))},
        group=branches(3, views=3, ema=0.9, evaluate="ema"),
    ),
    "css": Method({"css": Term(Weight(1.0))}, group=Group({"t": "resnet14+css3", "s": "resnet8+css3"}, "s")),
    "ctkd": Method(
        {
            "ce": Term(Weight(1.0)),
            "at": Term(Weight(60.0), of=("a",)),
            "logit_match": Term(Weight(0.01), of=("b",), source="a"),
        },
        group=Group(PAIR, "b", 0),
    ),
}
VIEWS = max(method.group.views for method in METHODS.values() if method.group is not None)
INFO = DataInfo(IMAGES, 10, torch.arange(IMAGES) % 10, BATCH)
Bits = Mapping[str, str]  # of each run: a digest of its weights and its history


def recipe(**changed: object) -> Recipe:
    values: dict[str, object] = {
        "epochs": 2, "batch": BATCH, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4,
        "nesterov": False, "milestones": (1,), "decay": 0.1,
        "warmup": 0, "precision": "float32", "engine": "eager",
        "augmentation": Augmentation(2, "zeros", True, None), "momentum_at_milestones": "kept",
    }  # fmt: skip
    return Recipe(**(values | changed))  # type: ignore[arg-type]


@contextlib.contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Only algorithms that give the same bits each time, and an error where there is none."""
    how: Any = torch.utils.deterministic
    filled, how.fill_uninitialized_memory = (
        how.fill_uninitialized_memory,
        False,
    )  # costs time, decides nothing
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        how.fill_uninitialized_memory = filled


@contextlib.contextmanager
def launched(*, graphs: bool = True, streams: int = 1) -> Iterator[None]:
    """How `cdkd.training.cuda_graph` has the steps of loops that begin here done: recorded and replayed or
    not, students on so many streams.
    """
    wanted = {"CDKD_CUDA_GRAPHS": str(int(graphs)), "CDKD_STREAMS": str(streams)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions in float32 to its last bit: as CUDA comes, they round their inputs to TF32's 10 bits."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def distance(found: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """‖found − exact‖ / ‖exact‖, all numbers together; of exact zeros, the norm of what was found."""
    ours, theirs = (
        torch.cat([one.detach().double().cpu().flatten() for one in side]) for side in (found, exact)
    )
    norm = theirs.norm().item()
    return float((ours - theirs).norm().item() / (norm or 1.0))


def loss_error(name: str, device: torch.device) -> float:
    """A loss in float32 on the device against float64 on the CPU: the worst of its value and of each
    gradient, connectors' included.

    Where the CPU's own float32 is further than 1e-5 from float64, which depends on the processor, the error
    counts in proportion: ten times the CPU's is the limit.
    """
    if signature.is_group(name):
        return group_loss_error(name, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wide = (4, 8, 16) if name == "fsp" else (6, 12, 24)  # which wants equal channels
        student, teacher = _features((4, 8, 16)), _features(wide)
        labels = torch.where(torch.arange(8) % 2 == 0, teacher.logits.argmax(1), torch.randint(10, (8,)))
        data = DataInfo(len(labels), 10, labels, len(labels))
        loss = build(name, student, teacher, {}, data)
    exact = _gradients(
        copy.deepcopy(loss).double(), student, teacher, labels, torch.device("cpu"), torch.float64
    )
    with full_float32():
        usual = _gradients(copy.deepcopy(loss), student, teacher, labels, torch.device("cpu"), torch.float32)
        found = _gradients(loss.to(device), student, teacher, labels, device, torch.float32)
    return _in_proportion(usual, found, exact)


def _in_proportion(usual: Sequence[Tensor], found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """See `loss_error`."""
    own, error = (
        max(distance([ours], [theirs]) for ours, theirs in zip(one, exact, strict=True))
        for one in (usual, found)
    )
    return error * min(1.0, 1e-5 / own) if own > 0 else error


def group_loss_error(name: str, device: torch.device) -> float:
    """The same of a loss of several networks, on what the contract's checks give it."""
    cpu = torch.device("cpu")
    exact = _group_gradients(name, cpu, torch.float64)
    with full_float32():
        return _in_proportion(
            _group_gradients(name, cpu, torch.float32), _group_gradients(name, device, torch.float32), exact
        )


def _group_gradients(name: str, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """As `_gradients`."""
    given = group_contract.made(name, batch=8)
    loss = given.loss().to(device, dtype)
    marked = given.changed(lambda x: x.detach().to(device, dtype).requires_grad_())
    views = tuple(view.to(device, dtype) for view in given.batch.views)
    batch = given.batch._replace(
        views=views, labels=given.batch.labels.to(device), indices=given.batch.indices.to(device)
    )
    loss.before_step(batch)
    value = group_contract.total(loss(marked.outputs, marked.teachers, batch))
    value.backward()
    learned = (*marked.tensors(), *loss.parameters())
    return [value, *(one.grad for one in learned if one.grad is not None)]


def _features(channels: Sequence[int]) -> Features:
    """Eight images: maps of 16, 8 and 4 pixels, ten classes."""
    maps = tuple(torch.randn(8, count, side, side) for count, side in zip(channels, (16, 8, 4), strict=True))
    return Features(
        maps,
        torch.randn(8, channels[-1]),
        3 * torch.randn(8, 10),
        last_map=torch.randn(8, channels[-1], 4, 4),
        stem=torch.randn(8, channels[0], 16, 16),
        preactivations=tuple(torch.randn_like(one) for one in maps),
        classifier=(torch.randn(10, channels[-1]), torch.randn(10)),
    )


def _moved_to(given: Features, device: torch.device, dtype: torch.dtype, gradients: bool) -> Features:
    def moved(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(moved(one) for one in part)
        if part is None:
            return None
        return part.detach().to(device, dtype).requires_grad_(gradients)

    return Features(*(moved(part) for part in given))


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, tuple):
        for one in part:
            yield from _tensors(one)
    elif part is not None:
        yield part


def _gradients(
    loss: nn.Module,
    student: Features,
    teacher: Features,
    labels: Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The loss's value, and its gradients in the student's features and in what it learns itself, where it
    has any.
    """
    own = _moved_to(student, device, dtype, True)
    theirs = _moved_to(teacher, device, dtype, False)
    count = len(labels)
    batch = Batch(
        (torch.zeros(count, 1, 1, 1, device=device),), labels.to(device), torch.arange(count, device=device)
    )
    if isinstance(loss, Loss):
        loss.before_step(batch)
    value = loss(own, theirs, batch)
    value.backward()
    learned = (*_tensors(tuple(own)), *loss.parameters())
    return [value, *(one.grad for one in learned if one.grad is not None)]


def split(count: int, seed: int, device: torch.device) -> Split:
    """Noise with labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, *DATA["image"]), generator=generator, dtype=torch.uint8)  # type: ignore[misc]
    return Split(pixels, torch.randint(10, (count,), generator=generator), (0.5,), (0.25,), device)


def steps_error(device: torch.device, steps: int = 3, draws: int = 5) -> float:
    """Some steps of a cohort in float32 on the device against float64 on the CPU: the difference of all
    weights, by how far they went.

    In units of the CPU's own error in float32 (or of 1e-3, where that is smaller), which depends on the
    processor: in one draw of images in three a ReLU's input is so close to 0 that rounding decides its sign,
    which is no fault, and moves the weights by a hundredth. Of some draws, the median.
    """
    cpu = torch.device("cpu")
    begin = _stepped(cpu, torch.float64, 0, 0)
    errors = []
    for draw in range(draws):
        exact = _moved(_stepped(cpu, torch.float64, steps, draw), begin)
        with full_float32():
            found, usual = (_moved(_stepped(one, torch.float32, steps, draw), begin) for one in (device, cpu))
        errors.append(distance(found, exact) / max(distance(usual, exact), 1e-3))
    return statistics.median(errors)


def _moved(after: list[Tensor], begin: list[Tensor]) -> list[Tensor]:
    return [one.double().cpu() - before for one, before in zip(after, begin, strict=True)]


def _stepped(device: torch.device, dtype: torch.dtype, steps: int, draw: int) -> list[Tensor]:
    """Every student's weights after some steps, connectors' included."""
    how, train_split = recipe(learning_rate=0.01), split(BATCH * max(steps, 1), draw, device)
    teacher = Teacher(network("resnet14", DATA, 9, device).to(dtype), how)
    sample = _as(next(evaluation(train_split, how.augmentation, batch=2)), dtype)
    runs = []
    for name in METHODS:
        made = networks(METHODS[name], device, dtype)
        run = student_run(
            name, made, METHODS[name], how, 0, sample, {"teacher": teacher}, Path("nowhere"), data=INFO
        )
        run.learner.objective.to(dtype)
        decayed = METHODS[name].inactive == "decayed"  # momenta of that kind too
        run.learner.optimisers = [
            SGD(run.learner._trained(phase), how, decay_inactive=decayed) for phase in run.learner.phases
        ]
        run.open_epoch()
        runs.append(run)
    for batch in list(Batches(train_split, how.augmentation, BATCH).epoch(0, 0, VIEWS))[:steps]:
        seen = _as(batch, dtype)
        teachers = {"teacher": teacher(seen, needs_of(runs, 0, "teacher"))}
        parts: Parts = {}
        for run in runs:
            run.learner.objective.add_parts(teachers, seen, parts)
            run.step(seen, teachers, parts)
    return [weight.detach() for run in runs for weight in run.learner.parameters()]


def _as(batch: Batch, dtype: torch.dtype) -> Batch:
    return batch._replace(views=tuple(view.to(dtype) for view in batch.views))


def networks(
    method: Method, device: torch.device, dtype: torch.dtype = torch.float32
) -> nn.Module | dict[str, nn.Module]:
    """The student, or a group's networks by name."""
    if method.group is None:
        return network("resnet8", DATA, 0, device).to(dtype)
    return {
        name: network(kind, DATA, 0, device, f"weights of {name}").to(dtype)
        for name, kind in method.group.networks.items()
    }


def trained(
    device: torch.device,
    names: Iterable[str] = METHODS,
    *,
    replayed: bool = True,
    streams: int = 1,
    **changed: object,
) -> Bits:
    """These methods trained as one cohort by `cdkd.training.loop.train`, from the first epoch to the last;
    changed: of the recipe.
    """
    how = recipe(**changed)
    train_split, test = split(IMAGES, 0, device), split(40, 1, device)
    with launched(graphs=replayed, streams=streams), tempfile.TemporaryDirectory() as folder:
        teacher = Teacher(network("resnet14", DATA, 9, device), how)
        sample = next(evaluation(test, how.augmentation, batch=2))
        teachers = {"teacher": teacher}
        runs: list[Run] = []
        for name in names:
            made, place = networks(METHODS[name], device), Path(folder) / name
            runs.append(student_run(name, made, METHODS[name], how, 0, sample, teachers, place, data=INFO))
        train(runs, teachers, Batches(train_split, how.augmentation, how.batch), Evaluation(test, how), 0)
    return {run.key: hashlib.sha256(run.weights() + repr(run.history).encode()).hexdigest() for run in runs}


def differing(one: Bits, other: Bits) -> str:
    """The runs of `one` that are not the same bits in `other`; none: an empty text."""
    return ", ".join(name for name in one if one[name] != other[name])


def alone(device: torch.device, **changed: Any) -> Bits:
    """Every method by itself."""
    return {name: bits for method in METHODS for name, bits in trained(device, [method], **changed).items()}


LOSSES = signature.names()


@functools.cache
def once(device: torch.device, strict: bool, **changed: object) -> Bits:
    """What the other ways are held against. strict: whether only deterministic algorithms are allowed at
    present
    """
    return trained(device, **changed)


WAYS: dict[str, Callable[..., Bits]] = {
    "twice": trained,
    "alone and in company": alone,
    "replayed and unrecorded": functools.partial(trained, replayed=False),
    "on one stream and on four": functools.partial(trained, streams=4),
    "on one stream and on four, unrecorded": functools.partial(trained, replayed=False, streams=4),
}


def exact(name: str, device: torch.device, **changed: object) -> tuple[Bits, Bits]:
    """Two ways of training that are the same to the bit, where only deterministic algorithms are allowed."""
    return once(device, torch.are_deterministic_algorithms_enabled(), **changed), WAYS[name](
        device, **changed
    )
