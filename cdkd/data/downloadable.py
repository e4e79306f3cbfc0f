"""How large the data sets with a name are; needs neither numpy nor a network."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """Images of both splits, the megabytes (10^6 bytes) to download (0: comes with a package), and an image.

    image: (H, W, C)
    """

    train: int
    test: int
    megabytes: int
    image: tuple[int, int, int]


SIZES = {
    "digits": Size(1_000, 797, 0, (8, 8, 1)),
    "cifar10": Size(50_000, 10_000, 170, (32, 32, 3)),
    "cifar100": Size(50_000, 10_000, 169, (32, 32, 3)),
    "fashion-mnist": Size(60_000, 10_000, 31, (28, 28, 1)),
    "svhn": Size(73_257, 26_032, 246, (32, 32, 3)),
}
