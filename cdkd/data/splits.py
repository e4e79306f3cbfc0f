"""Which image goes into which split: stratified draws, functions of the seed."""

from __future__ import annotations

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
    split[_validation(labels, validation, seed)] = SPLITS.index("validation")
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
    empty = np.flatnonzero(np.bincount(labels[kept], minlength=len(source.classes)) == 0)
    if len(empty):
        raise BadData(
            f"data.train_images: {train_images} leaves class {source.classes[empty[0]]!r} without a training "
            "image; expected more"
        )
    return kept


def _validation(labels: Labels, validation: float, seed: int) -> Labels:
    count = round(validation * len(labels))
    if count >= len(labels):
        raise BadData(
            f"data.validation: {validation} of {len(labels)} training images leaves none to train on; "
            "expected less"
        )
    return draw(labels, count, "validation", seed)
