"""The base class of convolutional networks: stem, stages, mean over height and width, classifier."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Self

from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.core.errors import BadParams
from cdkd.core.features import Features, Trunk
from cdkd.core.needs import Needs

NO_TRUNK = "has no trunk that others can share; expected a network such as resnet8 or vgg8"


class Stage(NamedTuple):
    """What one stage gives.

    map: its output, as `Features.maps` has it
    preactivation: the same before the last activation; None unless asked for
    following: what the next stage reads; not `map` where a pooling or transition lies between
    """

    map: Tensor
    preactivation: Tensor | None
    following: Tensor


class Staged(nn.Module, ABC):
    """A network gives its stem, its stages and its classifier; the forward pass is the same for all.

    It runs in two pieces, a trunk and a tail, so that several networks can share the first. The average over
    height and width is `mean`: on CUDA the backward pass of AdaptiveAvgPool2d is not deterministic.

    STEM, STAGES: attributes that hold the modules of the stem, and of each stage; the rest belongs to the
        head. A network whose stages are not attributes of its own has an empty STEM: it cannot be cut.
    """

    STEM: ClassVar[tuple[str, ...]]
    STAGES: ClassVar[tuple[str, ...]]

    @abstractmethod
    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stem's output, and what the first stage reads (the same, unless a pooling lies between)."""

    @abstractmethod
    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        """One stage, counted from 0; preactivation: whether it is asked for."""

    @property
    @abstractmethod
    def head(self) -> nn.Linear:
        """The last linear layer."""

    def modules_of(self, index: int) -> nn.Sequential:
        """The modules of a stage."""
        found: nn.Sequential = getattr(self, self.STAGES[index])
        return found

    def last_map(self, x: Tensor) -> Tensor:
        """The map that is averaged, from what follows the last stage."""
        return x

    def forward(self, x: Tensor, needs: Needs = Needs.NOTHING) -> Features:
        """x: [B, C, H, W]; needs: flags that ask for the stem and the preactivations."""
        return self.tail(self.trunk(x, 0, needs), needs)

    def trunk(self, x: Tensor, stages: int, needs: Needs = Needs.NOTHING) -> Trunk:
        """The stem and so many stages."""
        stem, x = self.stem(x)
        return self._through(Trunk(x, stem=stem if needs & Needs.STEM else None), stages, needs)

    def tail(self, start: Trunk, needs: Needs = Needs.NOTHING) -> Features:
        """The rest of the forward pass. The trunk may be another network's; its tensors are not changed."""
        x, maps, stem, preactivations = self._through(start, len(self.STAGES), needs)
        last = self.last_map(x)
        pooled = last.mean((2, 3))
        head = self.head
        return Features(maps, pooled, head(pooled), last, stem, preactivations, (head.weight, head.bias))

    def _through(self, start: Trunk, stop: int, needs: Needs) -> Trunk:
        x, maps, stem, given = start
        asked = bool(needs & Needs.PREACTIVATION)
        preactivations = given or ()
        for index in range(len(maps), stop):
            one, before, x = self.stage(index, x, asked)
            maps = (*maps, one)
            if before is not None:
                preactivations = (*preactivations, before)
        return Trunk(x, maps, stem, preactivations if asked else None)

    def trunk_parts(self, stages: int) -> tuple[str, ...]:
        """The attributes that `trunk` reads. Raises BadParams for a network that cannot be cut."""
        if not self.STEM:
            raise BadParams(f"group: {type(self).__name__} {NO_TRUNK}")
        return (*self.STEM, *self.STAGES[:stages])

    def cut(self, stages: int) -> Self:
        """Remove the trunk from this network, in place: afterwards it can only run `tail`."""
        for name in self.trunk_parts(stages):
            delattr(self, name)
        return self

    def on_trunk_of(self, other: Staged, stages: int) -> Self:
        """The whole network again, from a tail and another network's trunk; both keep their parameters."""
        whole = copy.copy(self)
        parts = {name: getattr(other, name) for name in self.trunk_parts(stages)}
        whole._modules = {
            **parts,
            **{name: part for name, part in self._modules.items() if name not in parts},
        }
        return whole


class ResidualBlock(nn.Module, ABC):
    """A block that ends with the ReLU of a sum."""

    @abstractmethod
    def total(self, x: Tensor) -> Tensor:
        """The sum before the last ReLU; a tensor that nobody else reads."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.total(x), inplace=True)


def residual_stage(blocks: nn.Sequential, x: Tensor, preactivation: bool) -> Stage:
    """A stage of `ResidualBlock`s."""
    if not preactivation:
        x = blocks(x)
        return Stage(x, None, x)
    last = blocks[-1]
    assert isinstance(last, ResidualBlock)
    before = last.total(blocks[:-1](x))
    x = F.relu(before)
    return Stage(x, before, x)


def normalised(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """What the BatchNorm gives for x, without an update of its running statistics."""
    if bn.training:
        return F.batch_norm(x, None, None, bn.weight, bn.bias, True, 0.0, bn.eps)
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps)


def he_fan_out(module: nn.Module) -> None:
    """Draw the weights of all convolutions, in order, from N(0, 2 / (kernel area x output channels))."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
