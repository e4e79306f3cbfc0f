"""Mean and std of the training pixels, and the number of test images that are also training images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdkd.core.errors import BadData
from cdkd.data.arrays import Images

Normalisation = Literal["measured"] | Mapping[str, Sequence[float]]

BLOCK = 2**18  # values that are counted at once


class ImageStatistics:
    """Counts pixel values in training, per channel, and the overlap of test and training images.

    counts: [C, 256]; measured: whether to count at all; overlap: test images identical to a training image
    """

    def __init__(self, channels: int, *, measured: bool) -> None:
        self.measured = measured
        self.counts = np.zeros((channels, 256), np.int64)
        self.overlap = 0
        self._known: set[bytes] = set()

    def add_training(self, images: Images) -> None:
        self._known.update(_digests(images))
        if self.measured:
            for block in np.array_split(images.reshape(-1, len(self.counts)), math.ceil(images.size / BLOCK)):
                for channel, counts in enumerate(self.counts):
                    counts += np.bincount(block[:, channel], minlength=256)

    def add_test(self, images: Images) -> None:
        """To be called after all training images were added."""
        self.overlap += sum(digest in self._known for digest in _digests(images))


def _digests(images: Images) -> Iterator[bytes]:
    return (hashlib.blake2b(image.data, digest_size=16).digest() for image in images)


def mean_and_std(
    counts: NDArray[np.int64], wanted: Normalisation
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One mean and std per channel, on the scale of 0 to 1: measured from counts [C, 256], or as given."""
    channels = len(counts)
    if isinstance(wanted, str):
        mean, std = (tuple(column) for column in zip(*map(_measured, counts), strict=True))
        if 0 in std:
            raise BadData(
                f"channel {std.index(0)} has the same value in all training images, so its std is 0; "
                "set mean and std in data.normalisation"
            )
        return mean, std
    mean, std = (tuple(map(float, wanted[key])) for key in ("mean", "std"))
    if len(mean) not in (1, channels) or len(std) != len(mean):
        raise BadData(
            f"data.normalisation: {len(mean)} means and {len(std)} standard deviations; "
            f"the images have {channels} channels"
        )
    if not all(math.isfinite(number) for number in mean + std) or min(std) <= 0:
        raise BadData(
            f"data.normalisation: mean {list(mean)}, std {list(std)}; expected finite numbers and std above 0"
        )
    return (mean * channels, std * channels) if len(mean) == 1 else (mean, std)


def _measured(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and std of all pixels, from sums of whole numbers: exact on every machine."""
    count, total, squares = (int(counts @ np.arange(256) ** power) for power in (0, 1, 2))
    variance = (count * squares - total * total) / (count * count)
    return round(total / count / 255, 4), round(math.sqrt(variance) / 255, 4)
