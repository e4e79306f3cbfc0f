"""One image file to pixels, by Pillow."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image

from cdkd.data.arrays import Images

MAX_PIXELS = 64 * 2**20  # of an image; a larger one is treated as a decompression bomb
# what Pillow decodes by itself, without starting another program
FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "DIB", "ICO", "PCX", "QOI"),
    *("SGI", "SUN", "XBM", "TGA"),  # TGA last: its files have no signature
)
GREY = ("1", "L", "LA", "La")


def resize_and_crop(image: Image.Image, size: int, side: int | None = None) -> Image.Image:
    """torchvision's Resize(size) and CenterCrop(side): shorter side to `size`, then the square in the centre.

    The interpolation is bilinear with antialiasing. side: `size` if None
    """
    width, height = image.size
    short = min(width, height)
    wide, high = (size * width // short, size * height // short)
    if wide * high > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels would be {wide}x{high} after resizing to data.size {size}")
    if (wide, high) != (width, height):
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    side = side or size
    left, top = round((wide - side) / 2), round((high - side) / 2)
    return image.crop((left, top, left + side, top + side))


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opened(content: bytes | bytearray) -> Image.Image:
    """The image in a file's content, not decoded yet. Raises whatever Pillow raises, or `ValueError`."""
    image = Image.open(io.BytesIO(content), formats=_formats())
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels; expected at least 1 and at most {MAX_PIXELS}")
    if image.mode[0] in "IF":
        raise ValueError(f"pixels of more than 8 bits (mode {image.mode}); expected 8-bit grey or colour")
    return image


def pixels(image: Image.Image, size: int | None, side: int | None = None) -> Images:
    """[H, W] of a grey image, [H, W, 3] of any other.

    Transparency is dropped, palettes become colours, and the EXIF orientation is not applied.
    """
    image = image.convert("L" if image.mode in GREY else "RGB")
    return np.asarray(image if size is None else resize_and_crop(image, size, side))
