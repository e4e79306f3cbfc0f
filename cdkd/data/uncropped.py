"""Prepares images of different sizes: stores their files as they came, after decoding each as a check."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdkd.core.errors import BadData
from cdkd.data.arrays import ImageFile, OnProgress, Source
from cdkd.data.decode import Faults, in_order, reason
from cdkd.data.image_statistics import Normalisation, mean_and_std
from cdkd.data.pixels import opened, pixels
from cdkd.data.prepared import SPLITS, Meta, encoded_header
from cdkd.data.splits import Assignment
from cdkd.data.writer import SplitWriter, finished, int64_bytes, publish, temporary_folder

CHUNK = 8  # images that a thread reads at once


class Checked(NamedTuple):
    """A file that Pillow decodes. counts: of pixel values, [C, 256]; zeros if they are not measured."""

    content: bytes
    counts: NDArray[np.int64]


def write_uncropped(
    target: Path,
    name: str,
    source: Source,
    assignment: Assignment,
    size: int | None,
    normalisation: Normalisation,
    progress: OnProgress | None,
) -> Meta:
    """Write all splits and data.json. `size`: the shorter side in evaluation. Raises `BadData`."""
    if source.files is None:
        raise BadData(f"data.uncropped: the images of source {name} are of one size; remove data.uncropped")
    if size is None:
        raise BadData("data.size: missing; with data.uncropped it is the shorter side in evaluation")
    files = source.files(assignment.kept)
    sizes = np.array([file.size for file in files], np.int64)
    measured = isinstance(normalisation, str)
    if not isinstance(normalisation, str) and len(normalisation["mean"]) > 1:
        mean_and_std(np.zeros((3, 256), np.int64), normalisation)  # refused now rather than after hours
    grey, colour = np.zeros((1, 256), np.int64), np.zeros((3, 256), np.int64)
    known: set[bytes] = set()
    channels = 1
    overlap = done = 0
    with ExitStack() as stack:
        chunks = stack.enter_context(closing(_checked(files, measured, progress)))
        folder = stack.enter_context(temporary_folder(target, int(sizes.sum()) + 20 * len(files) + 2**16))
        pool = stack.enter_context(ThreadPoolExecutor(4))
        writers = {
            split: stack.enter_context(
                closing(_writer(folder, split, assignment, sizes[assignment.split == number], pool))
            )
            for number, split in enumerate(SPLITS)
        }
        for chunk in chunks:
            for image in chunk:
                if len(image.content) != sizes[done]:
                    raise BadData(f"{files[done]}: changed while it was read")
                split = SPLITS[assignment.split[done]]
                writers[split].add([image.content], image.content, lambda: None)
                channels = max(channels, len(image.counts))
                digest = hashlib.blake2b(image.content, digest_size=16).digest()
                if split == "test":  # after all others
                    overlap += digest in known
                else:
                    known.add(digest)
                    total = grey if len(image.counts) == 1 else colour
                    total += image.counts
                done += 1
        counts = grey if channels == 1 else colour + grey
        image_shape = (size, size, channels)
        meta = finished(name, source, image_shape, writers, counts, overlap, normalisation, uncropped=True)
        publish(folder, target, meta)
    return meta


def _writer(
    folder: Path, split: str, assignment: Assignment, sizes: NDArray[np.int64], pool: ThreadPoolExecutor
) -> SplitWriter:
    labels = assignment.labels[split]
    described = int64_bytes(labels) + int64_bytes(np.cumsum(sizes))
    total = int(sizes.sum())
    begin = encoded_header(len(labels), total) + described
    return SplitWriter(folder, split, labels, begin, described, total, pool)


def _checked(
    files: Sequence[ImageFile], measured: bool, progress: OnProgress | None
) -> Generator[list[Checked], None, None]:
    """The files in order, in chunks. After the first fault, only faults are counted; `BadData` names them."""

    def one(index: int) -> Checked | str:
        try:
            content = files[index].read()
            found = pixels(opened(content), None)
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            return reason(error)
        flat = found.reshape(-1, 1 if found.ndim == 2 else 3)
        if not measured:
            return Checked(content, np.zeros((flat.shape[1], 256), np.int64))
        return Checked(content, np.array([np.bincount(column, minlength=256) for column in flat.T]))

    def chunk(start: int) -> list[Checked | str]:
        return [one(index) for index in range(start, min(start + CHUNK, len(files)))]

    threads = min(8, os.cpu_count() or 1)
    faults, done = Faults(files, same_size=False), 0
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # our own limit is lower, and an error
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for outcomes in in_order(pool, chunk, range(0, len(files), CHUNK), threads + 1):
            for index, outcome in enumerate(outcomes, done):
                if isinstance(outcome, str):
                    faults.add(index, outcome)
            done += len(outcomes)
            if progress is not None:
                progress(done, len(files))
            if not faults:
                yield [outcome for outcome in outcomes if isinstance(outcome, Checked)]
    faults.raise_if_any()
