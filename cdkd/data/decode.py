"""Image files to arrays. A file that is not an 8-bit image of the common size is refused by name."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np
from PIL import Image

from cdkd.core.errors import BadData
from cdkd.data.arrays import Chunks, Images, OnProgress, images_per_buffer
from cdkd.data.containers import Entry

MAX_PIXELS = 64 * 2**20  # of an image; a larger one is treated as a decompression bomb
# what Pillow decodes by itself, without starting another program
FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "DIB", "ICO", "PCX", "QOI"),
    *("SGI", "SUN", "XBM", "TGA"),  # TGA last: its files have no signature
)
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".avif", ".avifs"),
    *(".ico", ".pcx", ".qoi", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".xbm", ".tga", ".icb", ".vda", ".vst"),
)
SIGNATURE = (
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|....ftypavi[fs]|"
    rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|qoif"
)
GREY = ("1", "L", "LA", "La")
MOST_NAMED = 5  # broken images that a message names
CHUNK = 128

Size = tuple[int, int]  # width, height
Outcome = tuple[Size, Images | None] | str  # the size and the pixels, or an error
Decoded = tuple[Images | None, list[Size | str]]  # of a chunk: its pixels, if all images have them


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """torchvision's Resize(size) and CenterCrop(size): shorter side to `size`, then the square in the centre.

    The interpolation is bilinear with antialiasing.
    """
    width, height = image.size
    short = min(width, height)
    wide, high = (size * width // short, size * height // short)
    if wide * high > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels would be {wide}x{high} after resizing to data.size {size}")
    if (wide, high) != (width, height):
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return image.crop((left, top, left + size, top + size))


def is_image(entry: Entry) -> bool:
    """By the suffix; where that is unknown or missing, by the first bytes."""
    if entry.path.lower().endswith(SUFFIXES):
        return True
    try:
        return re.match(SIGNATURE, entry.read(16), re.DOTALL) is not None
    except Exception:  # a damaged or encrypted member; what is not an image may be so
        return False


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opened(content: bytes) -> Image.Image:
    """The image in a file's content, not decoded yet. Raises whatever Pillow raises, or `ValueError`."""
    image = Image.open(io.BytesIO(content), formats=_formats())
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels; expected at least 1 and at most {MAX_PIXELS}")
    if image.mode[0] in "IF":
        raise ValueError(f"pixels of more than 8 bits (mode {image.mode}); expected 8-bit grey or colour")
    return image


def pixels(image: Image.Image, size: int | None) -> Images:
    """[H, W] of a grey image, [H, W, 3] of any other.

    Transparency is dropped, palettes become colours, and the EXIF orientation is not applied.
    """
    image = image.convert("L" if image.mode in GREY else "RGB")
    return np.asarray(image if size is None else resize_and_crop(image, size))


def decoded(
    names: Sequence[object], read: Callable[[int], bytes], size: int | None, progress: OnProgress | None
) -> Chunks:
    """The images that `read` returns by index, in order, in chunks uint8 [n, H, W, C]. Messages use `names`.

    A chunk has 1 channel if all its images are grey, else 3. After the first fault no more chunks come, but
    the remaining images are still checked, so that the `BadData` at the end counts every fault. Pillow
    releases the interpreter's lock, so several threads decode in parallel.
    """
    mixed = threading.Event()  # sizes differ: from here on only sizes are read, and no pixels kept
    common = _first_size(len(names), read) if size is None else (size, size)

    def one(index: int) -> Outcome:
        try:
            image = opened(read(index))
            if size is None and image.size != common:
                mixed.set()
            return image.size, None if mixed.is_set() else pixels(image, size)
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            return str(error).replace("\n", " ").partition(" <_io.BytesIO")[0] or type(error).__name__

    threads = min(8, os.cpu_count() or 1)
    # a thread holds its chunk twice, as single images and stacked; writing copies it once more
    step = max(1, min(CHUNK, images_per_buffer((*common, 3)) // (2 * threads + 4)))

    def chunk(start: int) -> Decoded:
        outcomes = [one(index) for index in range(start, min(start + step, len(names)))]
        sizes = [outcome if isinstance(outcome, str) else outcome[0] for outcome in outcomes]
        return _stacked(outcomes), sizes

    faults, done = _Faults(names, size is None), 0
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # our own limit is lower, and an error
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for images, sizes in _in_order(pool, chunk, range(0, len(names), step), threads + 1):
            for index, found in enumerate(sizes, done):
                faults.add(index, found)
            done += len(sizes)
            if progress is not None:
                progress(done, len(names))
            if images is not None and not faults:
                yield images
    faults.raise_if_any()


def _first_size(count: int, read: Callable[[int], bytes]) -> Size:
    """The size of the first image that can be opened; if none can, all will be refused anyway."""
    for index in range(count):
        with contextlib.suppress(Exception):
            return opened(read(index)).size
    return 1, 1


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], Decoded], starts: range, ahead: int
) -> Iterator[Decoded]:
    """The results for each start, in order; at most `ahead` in advance, because results take memory."""
    running: deque[Future[Decoded]] = deque()
    try:
        for start in starts:
            running.append(pool.submit(work, start))
            if len(running) == ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Faults:
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
