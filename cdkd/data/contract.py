"""The checks that every data source must pass; `cdkd test source NAME` runs them on a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cdkd.core.checks import Failed, Result, require, results
from cdkd.data import own_sources
from cdkd.data.arrays import Arrays


class Made(NamedTuple):
    """The arrays of a source, read twice."""

    one: Arrays
    again: Arrays

    def splits(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        yield "train", self.one.train_images, self.one.train
        yield "test", self.one.test_images, self.one.test


def check(name: str, root: Path) -> Iterator[Result]:
    """Run every check on the source. Raises Failed if it is unknown, BadData if it cannot be read."""
    if not own_sources.exists(name):
        there = ", ".join(own_sources.names()) or "none"
        raise Failed(f"no source of your own {name!r}; there are {there}")
    return results(CHECKS, Made(own_sources.read(name, root), own_sources.read(name, root)))


def _classes(it: Made) -> None:
    classes = it.one.classes
    require(
        isinstance(classes, tuple) and len(classes) > 1, f"{classes!r}; expected a tuple of two names or more"
    )
    require(all(isinstance(one, str) and one for one in classes), "a class without a name")


def _unique(it: Made) -> None:
    require(len(set(it.one.classes)) == len(it.one.classes), "two classes of one name")


def _dtype(it: Made) -> None:
    for split, images, _ in it.splits():
        require(images.dtype == np.uint8, f"{split}: {images.dtype}; expected uint8, 0 to 255")


def _shape(it: Made) -> None:
    for split, images, _ in it.splits():
        require(images.ndim == 4, f"{split}: shape {images.shape}; expected [N, H, W, C]")


def _channels(it: Made) -> None:
    for split, images, _ in it.splits():
        require(images.shape[3] in (1, 3), f"{split}: {images.shape[3]} channels; expected 1 (grey) or 3")


def _alike(it: Made) -> None:
    one, other = it.one.train_images.shape[1:], it.one.test_images.shape[1:]
    require(one == other, f"train images are {one}, test images {other}")


def _counts(it: Made) -> None:
    for split, images, labels in it.splits():
        require(len(images) == len(labels), f"{split}: {len(images)} images, {len(labels)} labels")
        require(len(images) > 0, f"{split}: no images")


def _labels(it: Made) -> None:
    for split, _, labels in it.splits():
        require(labels.dtype == np.int64, f"{split}: labels are {labels.dtype}; expected int64")
        require(labels.ndim == 1, f"{split}: labels of shape {labels.shape}; expected [N]")


def _range(it: Made) -> None:
    for split, _, labels in it.splits():
        inside = (labels >= 0) & (labels < len(it.one.classes))
        require(
            inside.all(), f"{split}: label {labels[~inside][:1]}; expected 0 to {len(it.one.classes) - 1}"
        )


def _every_class(it: Made) -> None:
    for split, _, labels in it.splits():
        missing = sorted(set(range(len(it.one.classes))) - set(labels.tolist()))
        require(not missing, f"{split}: no image of {', '.join(it.one.classes[one] for one in missing[:5])}")


def _repeatable(it: Made) -> None:
    pairs = ((it.one.train_images, it.again.train_images), (it.one.test_images, it.again.test_images))
    equal = all(np.array_equal(*pair) for pair in pairs) and np.array_equal(it.one.train, it.again.train)
    require(equal, "two readings differ; draw with a fixed seed")


def _content(it: Made) -> None:
    for split, images, _ in it.splits():
        require(len(images) < 2 or (images[0] != images[1:]).any(), f"{split}: all images are the same")


def _apart(it: Made) -> None:
    train = {image.tobytes() for image in it.one.train_images}
    both = sum(image.tobytes() in train for image in it.one.test_images)
    require(both < len(it.one.test_images), "every test image is a training image")


CHECKS: dict[str, Callable[[Made], None]] = {
    "classes have names": _classes,
    "all class names are different": _unique,
    "images are uint8": _dtype,
    "images are [N, H, W, C]": _shape,
    "images have 1 channel (grey) or 3": _channels,
    "train and test images are of one size": _alike,
    "there is a label for each image": _counts,
    "labels are int64": _labels,
    "labels are numbers of classes": _range,
    "every class has images in both splits": _every_class,
    "reading twice gives the same arrays": _repeatable,
    "the images of a split are not all equal": _content,
    "test images are not all training images as well": _apart,
}
