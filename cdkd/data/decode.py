"""Image files to one array. What is not an 8-bit image of the common size is refused by name."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from cdkd.data.arrays import Count, Images
from cdkd.errors import BadData

PIXELS = 64 * 2**20  # of an image; more is taken for a decompression bomb
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
GREY = ("1", "L", "LA", "La")
NAMED = 5  # broken images that a message names
CHUNK = 128

Outcome = tuple[tuple[int, int], Images | None] | str  # (width, height) and pixels; or what is wrong


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


def decoded(names: Sequence[str], read: Callable[[int], bytes], size: int | None, progress: Count | None) -> Images:
    """uint8 [N, H, W, C] of the images that `read` gives by number, called `names` in messages.

    C is 1 if all are grey; one colour image makes it 3 for all.
    Pillow works without the interpreter's lock, so a few threads decode at once.
    """
    odd = threading.Event()  # sizes differ: from here on only sizes are looked at, and no pixels kept
    common: list[tuple[int, int]] = []

    def one(index: int) -> Outcome:
        try:
            image = opened(read(index))
            if size is None:
                if not common:
                    common.append(image.size)
                if image.size != common[0]:
                    odd.set()
            return image.size, None if odd.is_set() else pixels(image, size)
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            return str(error).replace("\n", " ").partition(" <_io.BytesIO")[0] or type(error).__name__

    def chunk(start: int) -> list[Outcome]:
        return [one(index) for index in range(start, min(start + CHUNK, len(names)))]

    outcomes: list[Outcome] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower, and an error
        for part in _windowed(pool, chunk, range(0, len(names), CHUNK)):
            if not outcomes:
                _refuse_if_too_many(part, len(names))
            outcomes.extend(part)
            if progress is not None:
                progress(len(outcomes), len(names))
    _refuse_broken(names, outcomes)
    if odd.is_set():
        _refuse_odd(names, outcomes)
    return _stacked(outcomes)


def _windowed(pool: ThreadPoolExecutor, work: Callable[[int], list[Outcome]], starts: range) -> Iterator[list[Outcome]]:
    try:
        yield from pool.map(work, starts)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _refuse_if_too_many(first: list[Outcome], total: int) -> None:
    sizes = [outcome[1].nbytes for outcome in first if not isinstance(outcome, str) and outcome[1] is not None]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    need = 2 * total * max(sizes, default=0)  # twice: once as read, once as splits
    if need > memory:
        raise BadData(f"{total} images need {need / 1e9:.0f} GB of memory, this machine has {memory / 1e9:.0f} GB; lower data.size or data.train_images")


def _refuse_broken(names: Sequence[str], outcomes: list[Outcome]) -> None:
    broken = [f"{name} ({outcome})" for name, outcome in zip(names, outcomes, strict=True) if isinstance(outcome, str)]
    if broken:
        more = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise BadData(f"{len(broken)} of {len(names)} images cannot be read: {'; '.join(broken[:NAMED])}{more}")


def _refuse_odd(names: Sequence[str], outcomes: list[Outcome]) -> None:
    sizes = [outcome[0] for outcome in outcomes if not isinstance(outcome, str)]
    (major, count), *_ = sorted(Counter(sizes).items(), key=lambda item: (-item[1], item[0]))
    name, (width, height) = next((name, size) for name, size in zip(names, sizes, strict=True) if size != major)
    raise BadData(
        f"{name} is {width}x{height} pixels, while {count} of {len(names)} images are {major[0]}x{major[1]}; "
        "expected images of one size (data.size resizes and crops all to a square)"
    )


def _stacked(outcomes: list[Outcome]) -> Images:
    """One array; each image is let go as it is copied, so that the images are not in memory twice."""
    arrays = [outcome[1] for outcome in outcomes if not isinstance(outcome, str)]
    outcomes.clear()
    first = arrays[0]
    assert first is not None  # pixels were kept of all: no size was odd
    colour = any(array is not None and array.ndim == 3 for array in arrays)
    out = np.empty((len(arrays), *first.shape[:2], 3 if colour else 1), np.uint8)
    for index, array in enumerate(arrays):
        assert array is not None
        out[index] = array[:, :, None] if array.ndim == 2 else array
        arrays[index] = None
    return out
