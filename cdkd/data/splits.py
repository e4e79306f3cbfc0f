"""Which image goes into which split: stratified draws, functions of the seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdkd.core.errors import BadData
from cdkd.data.arrays import Labels, Source
from cdkd.data.draw import draw
from cdkd.data.prepared import SPLITS


class Assignment(NamedTuple):
    """Which training images are kept, and the split of each image: kept ones first, then the test images."""

    kept: Labels
    split: NDArray[np.int8]  # index in SPLITS
    labels: dict[str, Labels]  # of each split


def check_labels(source: Source, name: str) -> None:
    highest = len(source.classes) - 1
    for split, labels in (("train", source.train), ("test", source.test)):
        if len(labels) == 0:
            raise BadData(f"{name}: split {split} has no images; expected at least 1")
        invalid = np.flatnonzero((labels < 0) | (labels > highest))
        if len(invalid):
            index = invalid[0]
            raise BadData(
                f"{name}: label {labels[index]} at index {index} of split {split}; expected 0 to {highest}"
            )


def assign(source: Source, train_images: int | None, validation: float, seed: int) -> Assignment:
    kept = _kept(source, train_images, seed)
    labels = source.train[kept]
    split = np.zeros(len(kept) + len(source.test), np.int8)
    split[_validation(labels, source.classes, validation, seed)] = SPLITS.index("validation")
    split[len(kept) :] = SPLITS.index("test")
    every = np.concatenate([labels, source.test])
    return Assignment(kept, split, {name: every[split == number] for number, name in enumerate(SPLITS)})


def _kept(source: Source, train_images: int | None, seed: int) -> Labels:
    labels = source.train
    if train_images is None:
        return np.arange(len(labels))
    if train_images > len(labels):
        raise BadData(f"data.train_images: {train_images}; expected at most the source's {len(labels)}")
    kept = draw(labels, train_images, "train_images", seed)
    if (lost := first_missing(labels, labels[kept], source.classes)) is not None:
        raise BadData(
            f"data.train_images: {train_images} of {len(labels)} leaves {lost} without a training image; "
            "expected more"
        )
    return kept


def _validation(labels: Labels, classes: Sequence[str], validation: float, seed: int) -> Labels:
    count = round(validation * len(labels))
    share = f"data.validation: {validation} of {len(labels)} training images"
    if count >= len(labels):
        raise BadData(f"{share} leaves none to train on; expected less")
    if validation and not count:
        raise BadData(f"{share} is none; expected more, or 0 for no validation split")
    chosen = draw(labels, count, "validation", seed)
    if (lost := first_missing(labels, np.delete(labels, chosen), classes)) is not None:
        raise BadData(
            f"{share} is {count}, which leaves {lost} without one to train on; "
            "expected less, or 0 for no validation split"
        )
    return chosen


def first_missing(before: Labels, left: Labels, classes: Sequence[str], least: int = 1) -> str | None:
    """The first class with at least `least` images of which none is left, with their number."""
    counts = np.bincount(before, minlength=len(classes))
    lost = np.flatnonzero((counts >= least) & (np.bincount(left, minlength=len(classes)) == 0))
    if not len(lost):
        return None
    count = int(counts[lost[0]])
    return f"class {classes[lost[0]]!r} of {count} image{'s' if count != 1 else ''}"
