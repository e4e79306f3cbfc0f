"""What every source comes down to: class names, labels at once, and images when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # [N, H, W, C]
Labels = NDArray[np.int64]  # [N]
Count = Callable[[int, int], None]  # told (done, total) while something takes long
Parts = Generator[Images, None, None]

PENDING = 256 * 2**20  # bytes of decoded images that wait to be written: a data set need not fit the memory


def at_once(image: tuple[int, ...]) -> int:
    """How many images of this shape may wait."""
    return max(1, PENDING // math.prod(image))


@dataclass(frozen=True)
class Source:
    """Labels are known before any image is read, so that a draw of a few images reads few.

    `read(kept, progress)` gives the training images at the places `kept` and then all test images, in order, part by part: uint8
    [n, H, W, C] of one H and W. A part has 1 channel if all its images are grey, else 3.
    """

    classes: tuple[str, ...]
    train: Labels
    test: Labels
    read: Callable[[Labels, Count | None], Parts]


@dataclass(frozen=True)
class Arrays:
    """A data set that is in memory as a whole."""

    classes: tuple[str, ...]
    train_images: Images
    train: Labels
    test_images: Images
    test: Labels
