"""What every source provides: class names and labels first, the images on request."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # [N, H, W, C]
Labels = NDArray[np.int64]  # [N]
OnProgress = Callable[[int, int], None]  # called with (done, total) during long work
Chunks = Generator[Images, None, None]

BUFFER = 256 * 2**20  # bytes of decoded images that may wait to be written: a data set may exceed the memory


def images_per_buffer(image: tuple[int, ...]) -> int:
    """How many images of this shape fit into the buffer; at least 1."""
    return max(1, BUFFER // math.prod(image))


class ImageFile(Protocol):
    """An image as it came; its text is its name for messages."""

    def read(self) -> bytes: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class Source:
    """A data set whose labels are known before any image is read, so that a draw of a few images reads few.

    `read(kept, progress)` yields the training images at the indices `kept`, then all test images, in order,
    in chunks: uint8 [n, H, W, C], all of one H and W. A chunk has 1 channel if all its images are grey,
    else 3. unused: suffix -> number of files that are no part of the data set; notes: for the user
    files: the files of the images that `read` yields, where each image has one
    """

    classes: tuple[str, ...]
    train: Labels
    test: Labels
    read: Callable[[Labels, OnProgress | None], Chunks]
    unused: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: Callable[[Labels], Sequence[ImageFile]] | None = None


@dataclass(frozen=True)
class Arrays:
    """A data set in memory.

    classes: their names
    train_images, test_images: uint8 [N, H, W, C]
    train, test: labels, int64 [N]
    """

    classes: tuple[str, ...]
    train_images: Images
    train: Labels
    test_images: Images
    test: Labels
