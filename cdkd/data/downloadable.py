"""How large the data sets with a name are; needs neither numpy nor a network."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """Images of both splits, and the megabytes (10^6 bytes) to download; 0: comes with a package."""

    train: int
    test: int
    megabytes: int


SIZES = {
    "digits": Size(1_000, 797, 0),
    "cifar10": Size(50_000, 10_000, 170),
    "cifar100": Size(50_000, 10_000, 169),
    "fashion-mnist": Size(60_000, 10_000, 31),
    "svhn": Size(73_257, 26_032, 246),
}
