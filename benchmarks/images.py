"""The images that both sides train on: CIFAR-100 where it is at hand, else noise; other sides are noise."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = Literal["cifar100", "random"]

ROOT = Path(__file__).parents[1]
CLASSES, SIDE = 100, 32
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
PARTS = ("cifar100-1.zip", "cifar100-2.zip")


class Images(NamedTuple):
    pixels: NDArray[np.uint8]  # [N, H, W, C]
    labels: NDArray[np.int64]  # [N]


def folder() -> Path | None:
    """Where the archives lie: $CDKD_TEST_DATA/cifar100, or shared/data/cifar100 next to the checkout.

    None: nowhere.
    """
    places = [Path(os.environ["CDKD_TEST_DATA"])] if "CDKD_TEST_DATA" in os.environ else []
    for place in (*places, ROOT.parent / "shared" / "data"):
        if all((place / "cifar100" / part).is_file() for part in PARTS):
            return place / "cifar100"
    return None


def choose(wanted: str, side: int = SIDE) -> Pixels:
    """auto: real images where they are at hand and of this side.

    The caller says which they were: compressible or not, both cost the same to train on.
    """
    if wanted == "random" or (wanted == "auto" and (side != SIDE or folder() is None)):
        return "random"
    return "cifar100"


def load(split: Literal["train", "test"], count: int, pixels: Pixels, side: int = SIDE) -> Images:
    """The first `count` images of a split."""
    if pixels == "random":
        return _random(split, count, side)
    if side != SIDE:
        raise SystemExit(f"--side {side}: images of CIFAR-100 have {SIDE}; --pixels random takes any")
    return _cifar100(split, count)


def _random(split: str, count: int, side: int) -> Images:
    generator = np.random.default_rng([0, split == "test"])
    return Images(
        generator.integers(0, 256, (count, side, side, 3), np.uint8), generator.integers(0, CLASSES, count)
    )


def _cifar100(split: str, count: int) -> Images:
    """Archives of `<split>/<class>/<index>.webp`; only the members that are asked for are decoded."""
    place = folder()
    if place is None:
        raise SystemExit(
            f"no CIFAR-100: expected {' and '.join(PARTS)} in $CDKD_TEST_DATA/cifar100; "
            "--pixels random needs none"
        )
    with zipfile.ZipFile(place / PARTS[0]) as first, zipfile.ZipFile(place / PARTS[1]) as second:
        members = {
            name: archive
            for archive in (first, second)
            for name in archive.namelist()
            if name.startswith(f"{split}/")
        }
        ordered = sorted(members, key=lambda name: name.rpartition("/")[2])[:count]
        if len(ordered) < count:
            raise SystemExit(
                f"CIFAR-100 has {len(ordered)} images in its {split} split; {count} were asked for"
            )
        classes = sorted({name.split("/")[1] for name in members})
        pixels = [
            np.asarray(Image.open(io.BytesIO(members[name].read(name))).convert("RGB")) for name in ordered
        ]
    return Images(
        np.stack(pixels), np.array([classes.index(name.split("/")[1]) for name in ordered], np.int64)
    )
