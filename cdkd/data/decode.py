"""Image files to arrays. What is not an 8-bit image of the common size is refused by name."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image

from cdkd.core.errors import BadData
from cdkd.data.arrays import Count, Images, Parts, at_once

PIXELS = 64 * 2**20  # of an image; more is taken for a decompression bomb
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
GREY = ("1", "L", "LA", "La")
NAMED = 5  # broken images that a message names
CHUNK = 128

Size = tuple[int, int]  # width, height
Outcome = tuple[Size, Images | None] | str  # the size and the pixels; or what is wrong
Chunk = tuple[Images | None, list[Size | str]]  # the pixels, if all have them


def fitted(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to `size` (bilinear with antialiasing), then the centre size x size: torchvision's Resize and CenterCrop."""
    width, height = image.size
    short = min(width, height)
    wide, high = (size * width // short, size * height // short)
    if wide * high > PIXELS:
        raise ValueError(f"{width}x{height} pixels would be {wide}x{high} after resizing to data.size {size}")
    if (wide, high) != (width, height):
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return image.crop((left, top, left + size, top + size))


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    width, height = image.size
    if not 0 < width * height <= PIXELS:
        raise ValueError(f"{width}x{height} pixels; expected at least 1 and at most {PIXELS}")
    if image.mode[0] in "IF":
        raise ValueError(f"pixels of more than 8 bits (mode {image.mode}); expected 8-bit grey or colour")
    return image


def pixels(image: Image.Image, size: int | None) -> Images:
    """[H, W] of a grey image, [H, W, 3] of any other. Alpha is dropped, palettes are looked up, EXIF rotation is not applied."""
    image = image.convert("L" if image.mode in GREY else "RGB")
    return np.asarray(image if size is None else fitted(image, size))


def decoded(
    names: Sequence[object], read: Callable[[int], bytes], size: int | None, progress: Count | None
) -> Parts:
    """The images that `read` gives by number, called `names` in messages, in order, as parts: uint8 [n, H, W, C].

    C of a part is 1 if all its images are grey, else 3. At the first fault the parts end, but the rest is still looked at, so that
    the `BadData` at the end counts all faults. Pillow works without the interpreter's lock, so a few threads decode at once.
    """
    odd = threading.Event()  # sizes differ: from here on only sizes are looked at, and no pixels kept
    common = _first_size(len(names), read) if size is None else (size, size)

    def one(index: int) -> Outcome:
        try:
            image = opened(read(index))
            if size is None and image.size != common:
                odd.set()
            return image.size, None if odd.is_set() else pixels(image, size)
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            return str(error).replace("\n", " ").partition(" <_io.BytesIO")[0] or type(error).__name__

    threads = min(8, os.cpu_count() or 1)
    step = max(
        1, min(CHUNK, at_once((*common, 3)) // (2 * threads + 4))
    )  # a thread holds a chunk as single images and as one; writing copies it

    def chunk(start: int) -> Chunk:
        outcomes = [one(index) for index in range(start, min(start + step, len(names)))]
        return _stacked(outcomes), [
            outcome if isinstance(outcome, str) else outcome[0] for outcome in outcomes
        ]

    faults, done = _Faults(names, size is None), 0
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter(
            "ignore", Image.DecompressionBombWarning
        )  # the limit here is lower, and an error
        for images, seen in _ahead(pool, chunk, range(0, len(names), step), threads + 1):
            for index, found in enumerate(seen, done):
                faults.note(index, found)
            done += len(seen)
            if progress is not None:
                progress(done, len(names))
            if images is not None and not faults:
                yield images
    faults.refuse()


def _first_size(count: int, read: Callable[[int], bytes]) -> Size:
    """That of the first image that can be opened; if none can, they are all refused soon."""
    for index in range(count):
        with contextlib.suppress(Exception):
            return opened(read(index)).size
    return 1, 1


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[int], Chunk], starts: range, ahead: int
) -> Iterator[Chunk]:
    """What comes of each start, in order. Work is begun `ahead` starts before it is taken, and no earlier: results take memory."""
    begun: deque[Future[Chunk]] = deque()
    try:
        for start in starts:
            begun.append(pool.submit(work, start))
            if len(begun) == ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Faults:
    """What was wrong so far with the images called `names`; their sizes are to be `equal`, or do not matter."""

    def __init__(self, names: Sequence[object], equal: bool) -> None:
        self.names, self.equal = names, equal
        self.broken: list[str] = []  # the first `NAMED`
        self.count = 0
        self.sizes: Counter[Size] = Counter()
        self.first: dict[Size, int] = {}  # image of a size

    def note(self, index: int, found: Size | str) -> None:
        if isinstance(found, str):
            self.count += 1
            if len(self.broken) < NAMED:
                self.broken.append(f"{self.names[index]} ({found})")
        elif self.equal:
            self.sizes[found] += 1
            self.first.setdefault(found, index)

    def __bool__(self) -> bool:
        return self.count > 0 or len(self.sizes) > 1

    def refuse(self) -> None:
        if self.count:
            more = f"; and {self.count - NAMED} more" if self.count > NAMED else ""
            raise BadData(
                f"{self.count} of {len(self.names)} images cannot be read: {'; '.join(self.broken)}{more}"
            )
        if len(self.sizes) > 1:
            (major, count), *_ = sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))
            index, (width, height) = min((index, size) for size, index in self.first.items() if size != major)
            raise BadData(
                f"{self.names[index]} is {width}x{height} pixels, while {count} of {len(self.names)} images are {major[0]}x{major[1]}; "
                "expected images of one size (data.size resizes and crops all to a square)"
            )


def _stacked(outcomes: list[Outcome]) -> Images | None:
    """uint8 [n, H, W, C], with 3 channels as soon as one image has them; None if one is broken or odd."""
    arrays = [outcome[1] for outcome in outcomes if not isinstance(outcome, str) and outcome[1] is not None]
    if len(arrays) < len(outcomes):
        return None
    out = np.empty(
        (len(arrays), *arrays[0].shape[:2], max(3 if array.ndim == 3 else 1 for array in arrays)), np.uint8
    )
    for index, array in enumerate(arrays):
        out[index] = array[:, :, None] if array.ndim == 2 else array
    return out
