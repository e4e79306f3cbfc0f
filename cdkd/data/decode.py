"""Many image files to arrays. A file that is not an 8-bit image of the common size is refused by name."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image

from cdkd.core.errors import BadData
from cdkd.data.arrays import Chunks, Images, OnProgress, images_per_buffer
from cdkd.data.containers import Entry
from cdkd.data.pixels import opened, pixels

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".avif", ".avifs"),
    *(".ico", ".pcx", ".qoi", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".xbm", ".tga", ".icb", ".vda", ".vst"),
)
SIGNATURE = (
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|....ftypavi[fs]|"
    rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|qoif"
)
MOST_NAMED = 5  # broken images that a message names
CHUNK = 128

T = TypeVar("T")
Size = tuple[int, int]  # width, height
Outcome = tuple[Size, Images | None] | str  # the size and the pixels, or an error
Decoded = tuple[Images | None, list[Size | str]]  # of a chunk: its pixels, if all images have them


def is_image(entry: Entry) -> bool:
    """By the suffix; where that is unknown or missing, by the first bytes."""
    if entry.path.lower().endswith(SUFFIXES):
        return True
    try:
        return re.match(SIGNATURE, entry.read(16), re.DOTALL) is not None
    except Exception:  # a damaged or encrypted member; it need not be an image
        return False


def decoded(
    names: Sequence[object], read: Callable[[int], bytes], size: int | None, progress: OnProgress | None
) -> Chunks:
    """The images that `read` returns by index, in order, in chunks uint8 [n, H, W, C]. Messages use `names`.

    A chunk has 1 channel if all its images are grey, else 3. After the first fault no more chunks come, but
    the remaining images are still checked, so that the `BadData` at the end counts every fault. Pillow
    releases the interpreter's lock, so several threads decode in parallel.
    """
    mixed = threading.Event()  # sizes differ: from here on only the sizes are read
    common = _first_size(len(names), read) if size is None else (size, size)

    def one(index: int) -> Outcome:
        try:
            image = opened(read(index))
            if size is None and image.size != common:
                mixed.set()
            return image.size, None if mixed.is_set() else pixels(image, size)
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            return reason(error)

    threads = min(8, os.cpu_count() or 1)
    # a thread holds its chunk twice, as single images and stacked; writing copies it once more
    step = max(1, min(CHUNK, images_per_buffer((*common, 3)) // (2 * threads + 4)))

    def chunk(start: int) -> Decoded:
        outcomes = [one(index) for index in range(start, min(start + step, len(names)))]
        sizes = [outcome if isinstance(outcome, str) else outcome[0] for outcome in outcomes]
        return _stacked(outcomes), sizes

    faults, done = Faults(names, size is None), 0
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # our own limit is lower, and an error
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for images, sizes in in_order(pool, chunk, range(0, len(names), step), threads + 1):
            for index, found in enumerate(sizes, done):
                faults.add(index, found)
            done += len(sizes)
            if progress is not None:
                progress(done, len(names))
            if images is not None and not faults:
                yield images
    faults.raise_if_any()


def reason(error: Exception) -> str:
    """An error of Pillow in one line."""
    return str(error).replace("\n", " ").partition(" <_io.BytesIO")[0] or type(error).__name__


def _first_size(count: int, read: Callable[[int], bytes]) -> Size:
    """The size of the first image that can be opened; if none can, all will be refused anyway."""
    for index in range(count):
        with contextlib.suppress(Exception):
            return opened(read(index)).size
    return 1, 1


def in_order(pool: ThreadPoolExecutor, work: Callable[[int], T], starts: range, ahead: int) -> Iterator[T]:
    """The results for each start, in order; at most `ahead` in advance, because results take memory."""
    running: deque[Future[T]] = deque()
    try:
        for start in starts:
            running.append(pool.submit(work, start))
            if len(running) == ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Faults:
    """What is wrong with the images seen so far. With `same_size`, all must be of one size."""

    def __init__(self, names: Sequence[object], same_size: bool) -> None:
        self.names, self.same_size = names, same_size
        self.broken: list[str] = []  # the first MOST_NAMED
        self.count = 0
        self.sizes: Counter[Size] = Counter()
        self.first: dict[Size, int] = {}  # the first image of each size

    def add(self, index: int, found: Size | str) -> None:
        if isinstance(found, str):
            self.count += 1
            if len(self.broken) < MOST_NAMED:
                self.broken.append(f"{self.names[index]} ({found})")
        elif self.same_size:
            self.sizes[found] += 1
            self.first.setdefault(found, index)

    def __bool__(self) -> bool:
        return self.count > 0 or len(self.sizes) > 1

    def raise_if_any(self) -> None:
        total = len(self.names)
        if self.count:
            more = f"; and {self.count - MOST_NAMED} more" if self.count > MOST_NAMED else ""
            broken = "; ".join(self.broken)
            raise BadData(f"{self.count} of {total} images cannot be read: {broken}{more}")
        if len(self.sizes) > 1:
            (major, count), *_ = sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))
            index, (width, height) = min((index, size) for size, index in self.first.items() if size != major)
            raise BadData(
                f"{self.names[index]} is {width}x{height} pixels, while {count} of {total} images are "
                f"{major[0]}x{major[1]}; expected images of one size "
                "(data.size resizes and crops all to a square)"
            )


def _stacked(outcomes: list[Outcome]) -> Images | None:
    """uint8 [n, H, W, C], with 3 channels if any image has them; None if an image has no pixels here."""
    arrays = [outcome[1] for outcome in outcomes if not isinstance(outcome, str) and outcome[1] is not None]
    if len(arrays) < len(outcomes):
        return None
    channels = max(3 if array.ndim == 3 else 1 for array in arrays)
    stacked = np.empty((len(arrays), *arrays[0].shape[:2], channels), np.uint8)
    for index, array in enumerate(arrays):
        stacked[index] = array[:, :, None] if array.ndim == 2 else array
    return stacked
