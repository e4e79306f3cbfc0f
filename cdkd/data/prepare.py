"""From a source to prepared splits: draw, read, measure, write.

Equal arguments and equal images give equal bytes. Images are written to disk as they are read, so a data
set may exceed the memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdkd.core.errors import BadData
from cdkd.data.arrays import Images, Labels, OnProgress, Source
from cdkd.data.draw import draw
from cdkd.data.image_statistics import ImageStatistics, Normalisation, mean_and_std
from cdkd.data.prepared import SPLITS, Meta
from cdkd.data.sources import open_source
from cdkd.data.writer import SplitWriter, publish, temporary_folder
from cdkd.storage.files import digest


class Assignment(NamedTuple):
    """Which training images are kept, and the split of each image: kept ones first, then the test images."""

    kept: Labels
    split: NDArray[np.int8]  # index in SPLITS
    labels: dict[str, Labels]  # of each split


def prepare(
    target: Path,
    root: Path,
    *,
    source: str,
    paths: Sequence[str],
    size: int | None,
    train_images: int | None,
    validation: float,
    seed: int,
    normalisation: Normalisation,
    test: float | None = None,
    progress: OnProgress | None = None,
) -> Meta:
    """Write the splits train, validation and test, and data.json, into the folder `target`.

    Relative paths start from `root`. The source's test split is kept complete; without one, the share `test`
    of the images is drawn. Of the training images, `train_images` are kept (None: all), and the share
    `validation` of these becomes the validation split. All draws are stratified, and functions of `seed`.
    Measured mean and std are those of train and validation together.

    Earlier content of `target` is replaced only after everything was read and written next to it. Raises
    `BadData`.
    """
    opened = open_source(source, root, paths, size, progress, test, seed)
    _check_labels(opened, source)
    assignment = _assignment(opened, train_images, validation, seed)
    try:
        return _write(target, source, opened, assignment, normalisation, progress, colour=False)
    except _ColourFound:
        return _write(target, source, opened, assignment, normalisation, progress, colour=True)


def _check_labels(source: Source, name: str) -> None:
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


def _assignment(source: Source, train_images: int | None, validation: float, seed: int) -> Assignment:
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


class _ColourFound(Exception):
    """A colour image followed grey ones: the splits are written again, with 3 channels for all."""


def _write(
    target: Path,
    name: str,
    source: Source,
    assignment: Assignment,
    normalisation: Normalisation,
    progress: OnProgress | None,
    *,
    colour: bool,
) -> Meta:
    """Write all splits and data.json; with `colour`, grey images get 3 channels.

    Raises `_ColourFound` if `colour` is needed and was not set.
    """
    with ExitStack() as stack:
        chunks = stack.enter_context(closing(source.read(assignment.kept, progress)))
        first = next(chunks)  # read before anything is written: it gives the shape, and may raise
        image = (first.shape[1], first.shape[2], 3 if colour else first.shape[3])
        statistics = ImageStatistics(image[2], measured=isinstance(normalisation, str))
        if image[2] == 3 and not statistics.measured:
            mean_and_std(statistics.counts, normalisation)  # refused now rather than after hours
        count = len(assignment.split)
        needed = count * (math.prod(image) + 12) + 2**16  # labels, checksums, small files
        folder = stack.enter_context(temporary_folder(target, needed))
        pool = stack.enter_context(ThreadPoolExecutor(4))
        writers = {
            split: stack.enter_context(closing(SplitWriter(folder, split, labels, image, pool)))
            for split, labels in assignment.labels.items()
        }
        done = 0
        for chunk in chain([first], chunks):
            _add(chunk, assignment.split[done : done + len(chunk)], writers, statistics)
            done += len(chunk)
        if done != count:
            raise BadData(f"{name}: {done} images were read; expected {count}")
        meta = _meta(name, source, image, writers, statistics, normalisation)
        publish(folder, target, meta)
    return meta


def _add(
    chunk: Images, numbers: NDArray[np.int8], writers: dict[str, SplitWriter], statistics: ImageStatistics
) -> None:
    """Pass each image to the writer of its split; `numbers`: index in SPLITS of each image."""
    channels = len(statistics.counts)
    if chunk.shape[3] > channels:
        raise _ColourFound
    for number, split in enumerate(SPLITS):  # test last, as `add_test` requires
        images = chunk[numbers == number]
        if len(images):
            if images.shape[3] < channels:
                images = np.repeat(images, channels, axis=3)
            add = statistics.add_test if split == "test" else statistics.add_training
            writers[split].add(np.ascontiguousarray(images), add)


def _meta(
    name: str,
    source: Source,
    image: tuple[int, int, int],
    writers: dict[str, SplitWriter],
    statistics: ImageStatistics,
    normalisation: Normalisation,
) -> Meta:
    mean, std = mean_and_std(statistics.counts, normalisation)
    files = {name: sha256 for writer in writers.values() for name, sha256 in writer.finish().items()}
    content = {split: writer.content.hexdigest() for split, writer in writers.items()}
    per_class = {
        split: np.bincount(writer.labels, minlength=len(source.classes)).tolist()
        for split, writer in writers.items()
    }
    return Meta(
        source=name,
        classes=source.classes,
        image=image,
        counts={split: len(writer.labels) for split, writer in writers.items()},
        per_class={split: tuple(counts) for split, counts in per_class.items()},
        mean=mean,
        std=std,
        files=files,
        overlap=statistics.overlap,
        unused=source.unused,
        notes=source.notes,
        digest=digest(
            {"classes": source.classes, "image": image, "mean": mean, "std": std, "splits": content}
        ),
    )
