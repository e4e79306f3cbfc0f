"""The data sets by name: bundled, downloaded, or the user's own images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cdkd.core.errors import BadData
from cdkd.data import own_sources
from cdkd.data.arrays import Arrays, Chunks, Images, Labels, OnProgress, Source, images_per_buffer
from cdkd.data.draw import draw
from cdkd.data.pixels import resize_and_crop
from cdkd.storage.shared import shared_folder

DIGITS_TEST = 797  # of 1,797 images; the test split is always the same, whatever data.seed is


def open_source(
    name: str,
    root: Path,
    paths: Sequence[str],
    size: int | None,
    progress: OnProgress | None,
    test_share: float | None = None,
    seed: int = 0,
) -> Source:
    """A source whose labels are known and whose images are still to be read. Downloads what is missing."""
    if name == "folder":
        from cdkd.data import folder

        return folder.open_folder(root, paths, size, test_share, seed)
    if test_share is not None:
        raise BadData(f"data.test: {test_share}; source {name} has a test split, remove data.test")
    if name == "digits":
        return _in_memory(_digits(), size)
    from cdkd.data import downloads

    if name in downloads.READERS:
        return _in_memory(downloads.read(name, shared_folder(root) / "downloads", progress), size)
    if own_sources.exists(name):
        return _in_memory(own_sources.read(name, root), size)
    names = ", ".join(downloads.READERS)
    raise BadData(f"data.source: no source {name!r}; expected one of digits, {names}, folder")


def _in_memory(arrays: Arrays, size: int | None) -> Source:
    for split, images, labels in (
        ("train", arrays.train_images, arrays.train),
        ("test", arrays.test_images, arrays.test),
    ):
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise BadData(
                f"{split} split: {len(labels)} labels for {images.dtype} images of shape "
                f"{list(images.shape)}; expected uint8 [N, H, W, C]"
            )

    def read(kept: Labels, _: OnProgress | None) -> Chunks:
        every = np.arange(len(arrays.test))
        for images, indices in ((arrays.train_images, kept), (arrays.test_images, every)):
            height, width, channels = images.shape[1:]
            step = images_per_buffer((size or height, size or width, channels))
            for start in range(0, len(indices), step):
                yield _resized(images[indices[start : start + step]], size)

    return Source(arrays.classes, arrays.train, arrays.test, read)


def _resized(images: Images, size: int | None) -> Images:
    if size is None or images.shape[1:3] == (size, size):
        return np.ascontiguousarray(images)
    resized = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for index, image in enumerate(images):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        pixels = np.asarray(resize_and_crop(picture, size))
        resized[index] = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return resized


def _digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; values 0 to 16 become 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, :, :, None]
    labels = bunch.target.astype(np.int64)
    test = draw(labels, DIGITS_TEST, "digits test split", 0)
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Arrays(tuple(map(str, range(10))), images[train], labels[train], images[test], labels[test])
