"""From a source to prepared splits: draw, read, measure, write.

Equal arguments and equal images give equal bytes. Images are written to disk as they are read, so a data
set may exceed the memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdkd.core.errors import BadData
from cdkd.data.arrays import Images, OnProgress, Source
from cdkd.data.image_statistics import ImageStatistics, Normalisation, mean_and_std
from cdkd.data.prepared import SPLITS, Meta
from cdkd.data.sources import open_source
from cdkd.data.splits import Assignment, assign, check_labels
from cdkd.data.uncropped import write_uncropped
from cdkd.data.writer import SplitWriter, array_writer, finished, publish, temporary_folder


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
    uncropped: bool = False,
    progress: OnProgress | None = None,
) -> Meta:
    """Write the splits train, validation and test, and data.json, into the folder `target`.

    Relative paths start from `root`. The source's test split is kept complete; without one, the share `test`
    of the images is drawn. Of the training images, `train_images` are kept (None: all), and the share
    `validation` of these becomes the validation split. All draws are stratified, and functions of `seed`.
    Measured mean and std are those of train and validation together. With `uncropped`, images keep their own
    sizes, and `size` is the shorter side in evaluation.

    Earlier content of `target` is replaced only when everything was read and written. Raises `BadData`.
    """
    opened = open_source(source, root, paths, size, progress, test, seed)
    check_labels(opened, source)
    assignment = assign(opened, train_images, validation, seed)
    if uncropped:
        return write_uncropped(target, source, opened, assignment, size, normalisation, progress)
    try:
        return _write(target, source, opened, assignment, normalisation, progress, colour=False)
    except _ColourFound:
        return _write(target, source, opened, assignment, normalisation, progress, colour=True)


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
            split: stack.enter_context(closing(array_writer(folder, split, labels, image, pool)))
            for split, labels in assignment.labels.items()
        }
        done = 0
        for chunk in chain([first], chunks):
            _add(chunk, assignment.split[done : done + len(chunk)], writers, statistics)
            done += len(chunk)
        if done != count:
            raise BadData(f"{name}: {done} images were read; expected {count}")
        meta = finished(name, source, image, writers, statistics.counts, statistics.overlap, normalisation)
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
            images = np.ascontiguousarray(images)
            views = (image.data for image in images)
            writers[split].add(views, images.reshape(-1).data, partial(add, images))
