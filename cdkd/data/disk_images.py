"""Images that stay on disk because they do not fit into memory; each is verified when it is read."""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cdkd.core.errors import BadData
from cdkd.data.checksums import Checksums, checksums, read_verified
from cdkd.data.prepared import HINT, Meta, header


class DiskImages:
    """The images in a split's file, uint8 [N, H, W, C]. Any number of threads may call `rows`.

    `start` is the offset of the first image in the file.
    """

    def __init__(
        self, path: Path, start: int, shape: tuple[int, int, int, int], checksums: Checksums
    ) -> None:
        self.path, self.start, self.shape, self.checksums = path, start, shape, checksums
        # stays open, so that another `cdkd prepare` does not change the images under a running training
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64 [B]) as a new tensor, uint8 [B, H, W, C].

        Raises `BadData` naming a damaged image.
        """
        size = math.prod(self.shape[1:])
        images = torch.empty((len(indices), *self.shape[1:]), dtype=torch.uint8)
        buffer = images.view(-1).numpy().data
        for row, index in enumerate(indices.tolist()):
            self._read(index, buffer[row * size : (row + 1) * size])
        return images

    def _read(self, index: int, buffer: memoryview) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        offset = self.start + index * len(buffer)
        read_verified(self._file, self.path, index, offset, buffer, int(self.checksums[index]))


class JoinedImages:
    """Several splits one after the other; at least one of them is on disk."""

    def __init__(self, parts: Sequence[Tensor | DiskImages]) -> None:
        self.parts = parts
        self.starts = torch.tensor([0, *itertools.accumulate(len(part) for part in parts)])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64 [B]): uint8 [B, H, W, C]."""
        images = torch.empty((len(indices), *self.shape[1:]), dtype=torch.uint8)
        for part, start, end in zip(self.parts, self.starts[:-1], self.starts[1:], strict=True):
            positions = ((indices >= start) & (indices < end)).nonzero().flatten()
            if len(positions):
                wanted = indices[positions] - start
                images[positions] = part[wanted] if isinstance(part, Tensor) else part.rows(wanted)
        return images


Images = Tensor | DiskImages | JoinedImages


def joined_images(parts: Sequence[Images]) -> Images:
    """Several splits one after the other: one tensor if all of them are tensors."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    single = [part for part in parts if not isinstance(part, JoinedImages)]
    return torch.cat(tensors) if len(tensors) == len(parts) else JoinedImages(single)


def on_disk(folder: Path, split: str, meta: Meta) -> tuple[DiskImages, Tensor]:
    """Images and labels (int64 [N]) of a split. The labels are verified now, each image when it is read.

    Raises `BadData` or `OSError`.
    """
    path, count = folder / f"{split}.safetensors", meta.counts[split]
    expected = header(count, meta.image)
    start, image = len(expected) + 8 * count, math.prod(meta.image)
    size = path.stat().st_size
    if size != start + count * image:
        raise BadData(f"{path}: {size} bytes; expected {start + count * image}; {HINT}")
    with path.open("rb") as file:
        begin = file.read(start)
    crcs = checksums(folder, split, meta, begin, itertools.repeat(image, count))
    if not begin.startswith(expected):
        raise BadData(f"{path}: damaged before its images; {HINT}")
    labels = np.frombuffer(begin, "<i8", count, len(expected)).astype(np.int64)
    return DiskImages(path, start, (count, *meta.image), crcs), torch.from_numpy(labels)
