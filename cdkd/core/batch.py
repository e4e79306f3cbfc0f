"""A training batch, and what a loss may know about the training set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cdkd.core.randomness import stream


class Batch(NamedTuple):
    """A batch of the training set.

    views: one or more augmented pictures of each image, each [B, C, H, W] float32, normalised, channels last
        in memory
    labels: [B] int64
    indices: [B] int64, positions of the images in the split
    crops: [B] int64, which of the split's crops view 0 shows; None: one of endlessly many
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor
    crops: Tensor | None = None
    seed: int = 0
    epoch: int = 0
    step: int = 0

    @property
    def images(self) -> Tensor:
        """View 0."""
        return self.views[0]

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
