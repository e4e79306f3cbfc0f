"""Images of different sizes, stored as the files they came in, and decoded when they are read.

Decoded, ImageNet would take five times the space. Each image is verified by its checksum when it is read.
"""

from __future__ import annotations

import bisect
import itertools
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdkd.core.errors import BadData
from cdkd.data.checksums import Checksums, checksums, read_verified
from cdkd.data.prepared import HINT, Meta, encoded_header

Offsets = NDArray[np.int64]  # [N + 1]


class EncodedFile:
    """The images in a split's file. start: where they start; offsets: of each one from there, and the end."""

    def __init__(self, path: Path, start: int, offsets: Offsets, crcs: Checksums) -> None:
        self.path, self.start, self.offsets, self.crcs = path, start, offsets, crcs
        # stays open, so that another `cdkd prepare` does not change the images under a running training
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self.crcs)

    def read(self, index: int) -> bytearray:
        begin, end = int(self.offsets[index]), int(self.offsets[index + 1])
        content = bytearray(end - begin)
        view = memoryview(content)
        read_verified(self._file, self.path, index, self.start + begin, view, int(self.crcs[index]))
        return content


class EncodedImages:
    """Uncropped images. shape: N, then the shape [size, size, C] in which evaluation sees them at most.

    Any number of threads may read.
    """

    def __init__(self, files: Sequence[EncodedFile], image: tuple[int, int, int]) -> None:
        self.files = files
        self.starts = list(itertools.accumulate((len(file) for file in files), initial=0))
        self.image = image
        self.shape = (self.starts[-1], *image)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, indices: Tensor) -> list[Tensor]:
        """The images at `indices` (int64 [B]), decoded: uint8 [H, W, C] each. Raises `BadData`."""
        return [torch.from_numpy(self._pixels(index, None, None)) for index in indices.tolist()]

    def centres(self, indices: Tensor, side: int) -> Tensor:
        """The centres of the images, after the shorter side became `size`: uint8 [B, side, side, C]."""
        size = self.shape[1]
        side = min(side, size)
        images = [torch.from_numpy(self._pixels(index, size, side)) for index in indices.tolist()]
        return (
            torch.stack(images) if images else torch.empty((0, side, side, self.shape[3]), dtype=torch.uint8)
        )

    def _pixels(self, index: int, size: int | None, side: int | None) -> NDArray[np.uint8]:
        from cdkd.data.pixels import opened, pixels  # Pillow, which other data do not need

        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        part = bisect.bisect_right(self.starts, index) - 1
        file = self.files[part]
        content = file.read(index - self.starts[part])
        try:
            found = pixels(opened(content), size, side)
        except Exception as error:  # prepare decoded it; so another version of Pillow reads other files
            raise BadData(f"{file.path}: image {index - self.starts[part]}: {error}; {HINT}") from error
        found = found[:, :, None] if found.ndim == 2 else found
        return np.repeat(found, 3, axis=2) if found.shape[2] < self.shape[3] else found.copy()


def encoded(folder: Path, split: str, meta: Meta) -> tuple[EncodedImages, Tensor]:
    """Images and labels (int64 [N]) of a split. The labels are verified now, each image when it is read.

    Raises `BadData` or `OSError`.
    """
    path, count = folder / f"{split}.safetensors", meta.counts[split]
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start = 8 + length + 16 * count
        size = path.stat().st_size
        header = encoded_header(count, size - start) if 0 <= start <= size else b""
        file.seek(0)
        begin = file.read(start) if header else b""
    if not header or len(header) != 8 + length or not begin.startswith(header):
        raise BadData(f"{path}: damaged before its images; {HINT}")
    labels, ends = (
        np.frombuffer(begin, "<i8", count, len(header) + 8 * count * part).astype(np.int64) for part in (0, 1)
    )
    offsets = np.concatenate([np.zeros(1, np.int64), ends])
    if (np.diff(offsets) <= 0).any() or offsets[-1] != size - start:
        raise BadData(f"{path}: damaged before its images; {HINT}")
    crcs = checksums(folder, split, meta, begin, np.diff(offsets).tolist())
    return EncodedImages([EncodedFile(path, start, offsets, crcs)], meta.image), torch.from_numpy(labels)
