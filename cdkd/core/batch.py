"""A training batch, and what a loss may know about the training set."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cdkd.core.randomness import stream

if TYPE_CHECKING:
    from cdkd.core.ranks import Share


class Batch(NamedTuple):
    """A batch of the training set.

    views: one or more augmented pictures of each image, each [B, C, H, W] float32, normalised, channels last
        in memory
    labels: [B] int64
    indices: [B] int64, positions of the images in the split
    crops: [B] int64, which of the split's crops view 0 shows; None: one of endlessly many
    share: which rows of the batch these are, where several ranks share it; None: all
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor
    crops: Tensor | None = None
    seed: int = 0
    epoch: int = 0
    step: int = 0
    share: Share | None = None

    @property
    def images(self) -> Tensor:
        """View 0."""
        return self.views[0]

    @property
    def total(self) -> int:
        """Images of all ranks."""
        return len(self.labels) if self.share is None else self.share.total

    @property
    def whole(self) -> Batch:
        """The labels and indices of all ranks' images, without pictures."""
        if self.share is None:
            return self
        labels, indices = self.share.labels, self.share.indices
        return self._replace(views=(), labels=labels, indices=indices, crops=None, share=None)

    def generator(self, name: str) -> torch.Generator:
        """Randomness of a loss's own: a function of (name, seed, epoch, step).

        On the CPU, so that all devices draw alike.
        """
        return stream(name, self.seed, self.epoch, self.step)


class DataInfo(NamedTuple):
    """What a loss may know about the training set.

    images, classes: how many there are
    labels: [images] int64
    batch: nominal batch size
    """

    images: int
    classes: int
    labels: Tensor
    batch: int
