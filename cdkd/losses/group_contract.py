"""The checks that every loss of several networks must pass; `cdkd test loss NAME` runs them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.checks import Result, require, results
from cdkd.core.features import Features, Outputs
from cdkd.losses import signature
from cdkd.losses.base import Ensemble, GroupLoss, build
from cdkd.losses.contract_gradients import check_dead, check_waits, finite_gradients
from cdkd.losses.contract_inputs import changed_all, every_option_has_a_default, features, tensors
from cdkd.losses.contract_ranks import Given, check_ranks

CLASSES, CHANNELS, BRANCHES = 10, (16, 32, 64), 3
EPOCHS = (0, 1000)  # a first and a late one: they may take different branches


class Made(NamedTuple):
    """A loss by its name, and what it is given."""

    name: str
    outputs: Outputs
    teachers: Mapping[str, Features]
    batch: Batch

    def loss(self, seed: int = 0) -> GroupLoss:
        data = DataInfo(12, CLASSES, torch.arange(12) % CLASSES, len(self.batch.labels))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            built = build(self.name, self.outputs, self.teachers, {}, data)
        require(isinstance(built, GroupLoss), f"{type(built).__name__} is no GroupLoss")
        assert isinstance(built, GroupLoss)
        built.before_step(self.batch)
        return built

    def value(self, loss: GroupLoss) -> Tensor:
        """The sum of its parts, computed by a copy: the loss itself does not change."""
        return total(copy.deepcopy(loss)(self.outputs, self.teachers, self.batch))

    def given(self) -> Given:
        return Given(self.outputs, self.teachers, self.batch)

    def changed(self, function: Callable[[Tensor], Tensor]) -> Made:
        """The same after a function of each tensor of networks, averages and teachers."""
        outputs, teachers = changed_all(self.outputs, self.teachers, function)
        return self._replace(outputs=outputs, teachers=teachers)

    def tensors(self) -> list[Tensor]:
        """Of networks, averages and teachers."""
        sides = (self.outputs.each, self.outputs.ema or {}, self.teachers)
        return [x for side in sides for one in side.values() for x in tensors(one)]

    def trained(self) -> tuple[Made, GroupLoss]:
        """Compute gradients in a first and in a late epoch."""
        marked, loss = self.changed(lambda x: x.detach().clone().requires_grad_()), self.loss()
        for epoch in EPOCHS:
            batch = self.batch._replace(epoch=epoch)
            loss.before_step(batch)
            torch.autograd.backward(total(loss(marked.outputs, marked.teachers, batch)))
        return marked, loss


def total(value: Tensor | Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(value.values())).sum() if isinstance(value, Mapping) else value


def compute(loss: GroupLoss, outputs: Outputs, teachers: Mapping[str, Features], batch: Batch) -> Tensor:
    return total(loss(outputs, teachers, batch))


def made(name: str, batch: int = 4) -> Made:
    """Three branches of one trunk with their moving averages, or two networks with branches inside."""
    inside = "branches" in signature.requires(name)
    names = ("t", "s") if inside else ("peer0", "peer1", "peer2")
    draw = torch.Generator().manual_seed(9)

    def network(seed: int) -> Features:
        found = features(CHANNELS, batch, seed)
        if not inside:
            return found
        size = (BRANCHES, batch, BRANCHES * CLASSES)
        return found._replace(branches=tuple(torch.randn(*size, generator=draw)))

    each, ema = ({one: network(first + place) for place, one in enumerate(names)} for first in (1, 11))
    shared = None if inside else torch.randn(batch, 32, 4, 4, generator=draw).relu()
    labels = torch.arange(batch) % CLASSES
    given = Batch((torch.zeros(batch, 3, 8, 8),), labels, torch.arange(batch))
    return Made(name, Outputs(each, shared, ema), {"teacher": features(CHANNELS, batch, 21)}, given)


def check(name: str) -> Iterator[Result]:
    """Run every check on the loss."""
    return results(CHECKS, made(name))


def _options(it: Made) -> None:
    every_option_has_a_default(it.name)


def _scalar(it: Made) -> None:
    value = copy.deepcopy(it.loss())(it.outputs, it.teachers, it.batch)
    parts = value if isinstance(value, Mapping) else {"": value}
    require(parts, "no part; expected a number, or named parts")
    for name, part in parts.items():
        shape = tuple(part.shape)
        require(shape == (), f"{name} shape {shape}; expected a single number, ()".lstrip())


def _finite(it: Made) -> None:
    for batch in (2, 4, 8):
        other = made(it.name, batch)
        finite_gradients(other.loss(), other.given(), compute, f" for a batch of {batch}")


def _float32(it: Made) -> None:
    dtype = it.value(it.loss()).dtype
    require(dtype == torch.float32, f"{dtype} for float32 features; expected float32")


def _half(it: Made) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        half = it.changed(partial(Tensor.to, dtype=dtype))
        whole, loss = half.changed(lambda x: x.float()), it.loss()
        ours, theirs = half.value(loss), whole.value(loss)
        require(ours.dtype == torch.float32, f"{ours.dtype} for {dtype}; expected float32 (at_least_float32)")
        same = torch.allclose(ours, theirs, rtol=1e-5)
        require(same, f"{ours.item()} for {dtype}, {theirs.item()} in float32")


def _double(it: Made) -> None:
    dtype = it.changed(lambda x: x.double()).value(it.loss().double()).dtype
    require(dtype == torch.float64, f"{dtype} for float64 features; expected float64")


def _repeatable(it: Made) -> None:
    before = torch.get_rng_state()
    same = torch.equal(it.value(it.loss()), it.value(it.loss()))
    require(same, "two values for the same seed and batch; randomness is batch.generator(name)'s")
    require(torch.equal(before, torch.get_rng_state()), "draws from torch's default generator in forward")


def _gradient(it: Made) -> None:
    marked, _ = it.trained()
    slopes = [x.grad for one in marked.outputs.each.values() for x in tensors(one) if x.grad is not None]
    require(any(slope.any() for slope in slopes), "no gradient in the networks' features")
    require(all(torch.isfinite(slope).all() for slope in slopes), "a gradient that is not finite")


def _targets(sides: Callable[[Made], Mapping[str, Features]], what: str) -> Callable[[Made], None]:
    def check(it: Made) -> None:
        marked, _ = it.trained()
        idle = all(x.grad is None for one in sides(marked).values() for x in tensors(one))
        require(idle, f"a gradient in {what}; detach them")

    return check


def _parts(it: Made) -> None:
    _, loss = it.trained()
    idle = [key for key, one in loss.named_parameters() if one.grad is None or not one.grad.any()]
    require(not idle, f"no gradient in {', '.join(idle)}")


def _state(it: Made) -> None:
    loss, other = it.loss(), it.loss(seed=1)
    other.load_state_dict(copy.deepcopy(loss.state_dict()))
    same = torch.equal(it.value(loss), it.value(other))
    require(same, "another value after load_state_dict; keep it in buffers")


def _seed(it: Made) -> None:
    one, other = it.loss().state_dict(), it.loss().state_dict()
    unequal = [key for key in one if not torch.equal(one[key], other[key])]
    require(not unequal, f"{', '.join(unequal)} differ for one seed; draw from torch's default generator")


def _inputs(it: Made) -> None:
    before = [x.clone() for x in it.tensors()]
    it.value(it.loss())
    require(all(map(torch.equal, before, it.tensors())), "changes the features that it is given")


def _layout(it: Made) -> None:
    def turned(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    loss = it.loss()
    ours, theirs = it.changed(turned).value(loss), it.value(loss)
    same = torch.allclose(ours, theirs, rtol=1e-5)
    require(same, f"{ours.item()} with channels last, {theirs.item()} without")


def _ensemble(it: Made) -> None:
    loss = it.loss()
    if not isinstance(loss, Ensemble):
        return
    found, expected = loss.ensemble(it.outputs), (len(it.batch.labels), CLASSES)
    require(tuple(found.shape) == expected, f"shape {tuple(found.shape)}; expected logits, {expected}")
    require(torch.isfinite(found).all(), "logits that are not finite")


def _equal(it: Made) -> None:
    one = next(iter(it.outputs.each.values()))
    each, ema, teachers = (
        dict.fromkeys(side, one) for side in (it.outputs.each, it.outputs.ema or {}, it.teachers)
    )
    same = it._replace(outputs=it.outputs._replace(each=each, ema=ema), teachers=teachers)
    finite_gradients(same.loss(), same.given(), compute, " where all networks are equal")


def _dead(it: Made) -> None:
    check_dead(it.loss(), it.given(), compute)


def _waits(it: Made) -> None:
    check_waits(it.loss(), it.given(), compute)


def _ranks(it: Made) -> None:
    check_ranks(it.loss(), lambda size: made(it.name, size).given(), compute)


CHECKS: dict[str, Callable[[Made], None]] = {
    "every option has a default": _options,
    "it gives a single number, or named parts of one number each": _scalar,
    "the number and its gradients are finite, for batches of 2, 4 and 8": _finite,
    "it computes in float32": _float32,
    "half-precision features give the float32 loss of their values": _half,
    "float64 features give a float64 loss": _double,
    "the same seed and batch give the same number": _repeatable,
    "the networks' features get a finite gradient": _gradient,
    "the teachers' features get no gradient": _targets(lambda it: it.teachers, "the teachers' features"),
    "the moving averages get no gradient": _targets(lambda it: it.outputs.ema or {}, "the moving averages"),
    "every learned part gets a gradient": _parts,
    "a state dict restores the loss": _state,
    "equal seeds give equal initial values": _seed,
    "it does not change its inputs": _inputs,
    "equal networks give finite gradients": _equal,
    "zero and tiny features give finite gradients that are not huge": _dead,
    "it waits for no value on the device": _waits,
    "it does not depend on the memory format of maps": _layout,
    "its ensemble, if it has one, gives logits": _ensemble,
    "two ranks compute what one does, or it says that they do not": _ranks,
}
