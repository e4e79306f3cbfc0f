"""A network of a stem, stages and a head, which runs in two pieces, so that several can share the first."""

from __future__ import annotations

import copy
from typing import ClassVar, Self

from torch import Tensor, nn

from cdkd.core.features import Features, Trunk


class Staged(nn.Module):
    """A subclass names its parts, and says what its stem and its head do.

    STEM, STAGES: attributes that hold the modules of the stem, and of each stage; the rest belongs to the
    head
    """

    STEM: ClassVar[tuple[str, ...]]
    STAGES: ClassVar[tuple[str, ...]]

    def stem(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def head(self, maps: tuple[Tensor, ...]) -> Features:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Features:
        return self.tail(self.trunk(x, 0))

    def trunk(self, x: Tensor, stages: int) -> Trunk:
        """The stem and so many stages."""
        return self._through(Trunk(self.stem(x)), self.STAGES[:stages])

    def tail(self, start: Trunk) -> Features:
        """What follows. It does not write into what the trunk gave."""
        return self.head(self._through(start, self.STAGES[len(start.maps) :]).maps)

    def _through(self, start: Trunk, stages: tuple[str, ...]) -> Trunk:
        x, maps = start.x, start.maps
        for stage in stages:
            x = getattr(self, stage)(x)
            maps = (*maps, x)
        return start._replace(x=x, maps=maps)

    def trunk_parts(self, stages: int) -> tuple[str, ...]:
        """The attributes that `trunk` reads."""
        return (*self.STEM, *self.STAGES[:stages])

    def cut(self, stages: int) -> Self:
        """This network without its trunk, in place: `tail` is what is left of it."""
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
