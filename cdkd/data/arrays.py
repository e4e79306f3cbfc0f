"""What every source comes down to: class names, labels at once, and images when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # [N, H, W, C]
Labels = NDArray[np.int64]  # [N]
Count = Callable[[int, int], None]  # told (done, total) while something takes long


@dataclass(frozen=True)
class Source:
    """Labels are known before any image is read, so that a draw of a few images reads few.

    `read(kept, progress)` gives the training images at the places `kept`, and all test images; both uint8 [N, H, W, C].
    """

    classes: tuple[str, ...]
    train: Labels
    test: Labels
    read: Callable[[Labels, Count | None], tuple[Images, Images]]


@dataclass(frozen=True)
class Arrays:
    """A data set that is in memory as a whole."""

    classes: tuple[str, ...]
    train_images: Images
    train: Labels
    test_images: Images
    test: Labels
