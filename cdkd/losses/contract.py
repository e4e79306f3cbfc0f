"""The checks that every loss of one network must pass; `cdkd test loss NAME` runs them.

A loss that passes can be trained in any cohort, resumed and run in half precision. Losses of several networks
have checks of their own (`group_contract`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.checks import Failed, Result, require, results
from cdkd.core.errors import BadParams
from cdkd.core.features import Features, Outputs
from cdkd.core.needs import Needs
from cdkd.losses import group_contract, signature
from cdkd.losses.base import Loss, build
from cdkd.losses.contract_gradients import check_dead, check_waits, finite_gradients
from cdkd.losses.contract_inputs import FIELDS, changed, every_option_has_a_default, features, tensors
from cdkd.losses.contract_ranks import SIZES, Given, check_ranks

CHANNELS = (16, 32, 64)


class Made(NamedTuple):
    """A loss by its name, and what it is given."""

    name: str
    student: Features
    teacher: Features
    batch: Batch

    def loss(self, seed: int = 0) -> Loss:
        data = DataInfo(12, 10, torch.arange(12) % 10, len(self.batch.labels))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            built = build(self.name, self.student, self.teacher, {}, data)
        require(isinstance(built, Loss), f"{type(built).__name__} is not a Loss")
        assert isinstance(built, Loss)
        built.before_step(self.batch)
        return built

    def value(self, loss: Loss, student: Features | None = None, teacher: Features | None = None) -> Tensor:
        """The value, computed by a copy: the loss itself does not change."""
        found: Tensor = copy.deepcopy(loss)(student or self.student, teacher or self.teacher, self.batch)
        return found

    def given(self) -> Given:
        return Given(Outputs({"student": self.student}), {"teacher": self.teacher}, self.batch)

    def outcome(self, loss: Loss, teacher: Features | None, part: Any = None) -> list[Tensor]:
        """The value, and the gradients in the student's features."""
        loss, student = copy.deepcopy(loss), changed(self.student, lambda x: x.clone().requires_grad_())
        value = loss(student, teacher, self.batch, part)
        torch.autograd.backward(value)
        return [value, *(one.grad for one in tensors(student) if one.grad is not None)]

    def step(self, loss: Loss, number: int) -> list[Tensor]:
        """A step on other features: the value, the gradients, and the state after it."""
        batch = self.batch._replace(step=number)
        loss.before_step(batch)
        loss.zero_grad()
        student = changed(self.student, lambda x: x.roll(number, 0).requires_grad_())
        value = loss(student, self.teacher, batch)
        torch.autograd.backward(value)
        slopes = [one.grad for one in loss.parameters() if one.grad is not None]
        return [value, *slopes, *copy.deepcopy(loss.state_dict()).values()]

    def train(self, loss: Loss, student: Features) -> None:
        """Compute gradients in a first and in a late epoch: they may take different branches."""
        for epoch in (0, 1000):
            batch = self.batch._replace(epoch=epoch)
            loss.before_step(batch)
            loss(student, self.teacher, batch).backward()


def made(name: str, batch: int = 4) -> Made:
    """With a teacher of twice the channels; if the loss refuses that, of as many."""
    wide = _made(name, batch, (32, 64, 128))
    try:
        wide.loss()
    except BadParams:
        return _made(name, batch, CHANNELS)
    except Exception:  # the checks report what is wrong with it
        return wide
    return wide


def _made(name: str, batch: int, channels: tuple[int, ...]) -> Made:
    student, teacher = features(CHANNELS, batch, 1), features(channels, batch, 2)
    labels = teacher.logits.argmax(1)
    labels[0] = (labels[0] + 1) % 10  # one image the teacher is wrong about
    return Made(name, student, teacher, Batch((torch.zeros(batch, 3, 8, 8),), labels, torch.arange(batch)))


def compute(loss: Loss, outputs: Outputs, teachers: Mapping[str, Features], batch: Batch) -> Tensor:
    value: Tensor = loss(outputs.each["student"], teachers["teacher"], batch)
    return value


def check(name: str) -> Iterator[Result]:
    """Run every check on the loss. Raises Failed for an unknown loss."""
    if not signature.exists(name):
        raise Failed(f"no loss {name!r}; there are {', '.join(signature.names())}")
    if signature.is_group(name):
        return group_contract.check(name)
    return results(CHECKS, made(name))


def _options(it: Made) -> None:
    every_option_has_a_default(it.name)


def _scalar(it: Made) -> None:
    shape = tuple(it.value(it.loss()).shape)
    require(shape == (), f"shape {shape}; expected a single number, ()")


def _finite(it: Made) -> None:
    for batch in (1, 2, 4):
        other = made(it.name, batch)
        finite_gradients(other.loss(), other.given(), compute, f" for a batch of {batch}")


def _float32(it: Made) -> None:
    dtype = it.value(it.loss()).dtype
    require(dtype == torch.float32, f"{dtype} for float32 features; expected float32")


def _half(it: Made) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        half, other = (changed(side, partial(Tensor.to, dtype=dtype)) for side in (it.student, it.teacher))
        whole, exact = (changed(side, lambda x: x.float()) for side in (half, other))
        loss = it.loss()
        ours, theirs = it.value(loss, half, other), it.value(loss, whole, exact)
        require(ours.dtype == torch.float32, f"{ours.dtype} for {dtype}; expected float32 (at_least_float32)")
        same = torch.allclose(ours, theirs, rtol=1e-5)
        require(same, f"{ours.item()} for {dtype}, {theirs.item()} in float32")
        finite_gradients(loss, it._replace(student=half).given(), compute, f" for a student in {dtype}")


def _double(it: Made) -> None:
    doubles = [changed(side, lambda x: x.double()) for side in (it.student, it.teacher)]
    precise, value = it.value(it.loss().double(), *doubles), it.value(it.loss())
    require(precise.dtype == torch.float64, f"{precise.dtype} for float64 features; expected float64")
    require(
        torch.allclose(precise.float(), value, rtol=1e-4, atol=1e-7),
        f"{precise.item()} in float64, {value.item()} in float32",
    )


def _repeatable(it: Made) -> None:
    before = torch.get_rng_state()
    one, other = it.value(it.loss()), it.value(it.loss())
    require(
        torch.equal(one, other),
        "two values for the same seed and batch; randomness is batch.generator(name)'s",
    )
    it.value(it.loss())
    require(torch.equal(before, torch.get_rng_state()), "draws from torch's default generator in forward")


def _gradient(it: Made) -> None:
    marked = changed(it.student, lambda x: x.detach().clone().requires_grad_())
    it.train(it.loss(), marked)
    slopes = [one.grad for one in tensors(marked) if one.grad is not None]
    require(any(slope.any() for slope in slopes), "no gradient in the student's features")
    require(all(torch.isfinite(slope).all() for slope in slopes), "a gradient that is not finite")


def _teacher(it: Made) -> None:
    marked = changed(it.teacher, lambda x: x.detach().clone().requires_grad_())
    student = changed(it.student, lambda x: x.detach().clone().requires_grad_())
    it.loss()(student, marked, it.batch).backward()
    idle = all(one.grad is None for one in tensors(marked))
    require(idle, "a gradient in the teacher's features; detach them")


def _parts(it: Made) -> None:
    loss = it.loss()
    student = changed(it.student, lambda x: x.detach().clone().requires_grad_())
    it.train(loss, student)
    idle = [key for key, one in loss.named_parameters() if one.grad is None or not one.grad.any()]
    require(not idle, f"no gradient in {', '.join(idle)}")


def _state(it: Made) -> None:
    loss, other = it.loss(), it.loss(seed=1)
    it.step(loss, 0)
    other.load_state_dict(copy.deepcopy(loss.state_dict()))
    for number in (1, 2):
        same = all(map(torch.equal, it.step(loss, number), it.step(other, number)))
        require(same, "another value after load_state_dict; keep it in buffers")


def _seed(it: Made) -> None:
    one, other = it.loss().state_dict(), it.loss().state_dict()
    unequal = [key for key in one if not torch.equal(one[key], other[key])]
    require(not unequal, f"{', '.join(unequal)} differ for one seed; draw from torch's default generator")
    drawn = {key: one for key, one in it.loss().named_parameters() if one.min() < one.max()}
    other_seed = it.loss(seed=1).state_dict()
    fixed = [key for key, one in drawn.items() if torch.equal(one, other_seed[key])]
    require(not fixed, f"{', '.join(fixed)} equal for two seeds; draw from torch's default generator")


def _needs(it: Made) -> None:
    loss = it.loss()
    seen = it.teacher
    for field in set(FIELDS.values()) - {FIELDS[need] for need in loss.needs}:
        blank = changed(seen, lambda x: torch.full_like(x, float("nan")))
        seen = seen._replace(**{field: getattr(blank, field)})
    if Needs.MAPS not in loss.needs and Needs.CHANNEL_MEANS in loss.needs:
        seen = seen._replace(maps=tuple(one.mean((2, 3), keepdim=True) for one in it.teacher.maps))
    ours = it.outcome(loss, None if loss.needs == Needs.NOTHING else seen)
    same = all(map(torch.equal, ours, it.outcome(loss, it.teacher)))
    require(same, "reads more of the teacher than `needs` names")


def _inputs(it: Made) -> None:
    before = [one.clone() for side in (it.student, it.teacher) for one in tensors(side)]
    it.loss()(it.student, it.teacher, it.batch)
    after = [one for side in (it.student, it.teacher) for one in tensors(side)]
    require(all(map(torch.equal, before, after)), "changes the features that it is given")


def _layout(it: Made) -> None:
    def turned(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    loss, theirs = it.loss(), it.value(it.loss())
    student, teacher = changed(it.student, turned), changed(it.teacher, turned)
    for sides in ((student, teacher), (student, it.teacher), (it.student, teacher)):
        ours = it.value(loss, *sides)
        same = torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        require(same, f"{ours.item()} with channels last, {theirs.item()} without")


def _part(it: Made) -> None:
    loss = it.loss()
    if loss.part_key is None:
        return
    other = it.loss(seed=1)
    same = hash(loss.part_key) == hash(other.part_key) and loss.part_key == other.part_key
    require(same, "two losses with equal options have unequal values of `part_key`")
    with torch.no_grad():
        part = other.teacher_part(it.teacher)
        stale = other.teacher_part(changed(it.teacher, lambda x: x.roll(1, 0)))
    alone = it.outcome(loss, it.teacher)
    same = all(map(torch.equal, it.outcome(loss, it.teacher, part), alone))
    require(same, "another value or gradient with the teacher's part than without")
    unused = torch.equal(it.outcome(loss, it.teacher, stale)[0], alone[0])
    require(not unused, "the teacher's part is not used")


def _equal(it: Made) -> None:
    student, teacher = (features(CHANNELS, len(it.batch.labels), 1) for _ in range(2))
    same = it._replace(student=student, teacher=teacher)
    finite_gradients(same.loss(), same.given(), compute, " where student and teacher are equal")


def _dead(it: Made) -> None:
    check_dead(it.loss(), it.given(), compute)


def _waits(it: Made) -> None:
    check_waits(it.loss(), it.given(), compute)


def _ranks(it: Made) -> None:
    check_ranks(made(it.name, max(SIZES)).loss(), lambda size: made(it.name, size).given(), compute)


CHECKS: dict[str, Callable[[Made], None]] = {
    "every option has a default": _options,
    "it gives a single number": _scalar,
    "the number and its gradients are finite, for batches of 1, 2 and 4": _finite,
    "it computes in float32": _float32,
    "half-precision features give the float32 loss of their values": _half,
    "float64 features give a float64 loss": _double,
    "the same seed and batch give the same number": _repeatable,
    "the student's features get a finite gradient": _gradient,
    "the teacher's features get no gradient": _teacher,
    "every learned part gets a gradient": _parts,
    "a state dict restores the loss": _state,
    "equal seeds give equal initial values": _seed,
    "it reads no more of the teacher than `needs` names": _needs,
    "it does not change its inputs": _inputs,
    "equal networks give finite gradients": _equal,
    "zero and tiny features give finite gradients that are not huge": _dead,
    "it waits for no value on the device": _waits,
    "it does not depend on the memory format of maps": _layout,
    "a precomputed `teacher_part` gives the same number": _part,
    "two ranks compute what one does, or it says that they do not": _ranks,
}
