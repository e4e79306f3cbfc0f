"""Images that stay on the disk, because the memory has no room for them, and are trusted one by one, by checksum."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors
from torch import Tensor

from cdkd.core.errors import BadData
from cdkd.data.prepared import CHECKSUMS, CURE, Meta, check_digest, header

Checksums = NDArray[np.uint32]  # [N], crc32 of each image


class MappedImages:
    """The images of a split's file, uint8 [N, H, W, C]. Any number of threads may ask for rows.

    They are read by place rather than through a memory map: a map turns a failing disk or a file cut short into a signal that ends
    the process without a word. `start` is the place of the first image in the file.
    """

    def __init__(
        self, path: Path, start: int, shape: tuple[int, int, int, int], checksums: Checksums
    ) -> None:
        self.path, self.start, self.shape, self.checksums = path, start, shape, checksums
        self._file = os.open(
            path, os.O_RDONLY
        )  # held open, so that another prepare does not change it under a run
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, indices: Tensor) -> Tensor:
        """The images at the places `indices` (int64 [B]), as a new tensor uint8 [B, H, W, C]; raises `BadData` naming an image that is damaged."""
        size = math.prod(self.shape[1:])
        images = torch.empty((len(indices), *self.shape[1:]), dtype=torch.uint8)
        room = images.view(-1).numpy().data
        for row, index in enumerate(indices.tolist()):
            self._read(index, room[row * size : (row + 1) * size])
        return images

    def _read(self, index: int, room: memoryview) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        place, done = self.start + index * len(room), 0
        try:
            while done < len(room):  # one read, but for the system's right to give less
                got = os.preadv(self._file, [room[done:]], place + done)
                if got == 0:
                    raise BadData(f"{self.path}: ends within image {index}; {CURE}")
                done += got
        except OSError as error:
            raise BadData(f"{self.path}: image {index} cannot be read ({error}); {CURE}") from error
        found, expected = zlib.crc32(room), int(self.checksums[index])
        if found != expected:
            raise BadData(
                f"{self.path}: image {index} is damaged, its crc32 is {found:08x}; expected {expected:08x}; {CURE}"
            )


class JoinedImages:
    """Splits one after the other, of which one at least is mapped."""

    def __init__(self, parts: Sequence[Tensor | MappedImages]) -> None:
        self.parts = parts
        self.starts = torch.tensor([0, *itertools.accumulate(len(part) for part in parts)])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, indices: Tensor) -> Tensor:
        """uint8 [B, H, W, C] by place: int64 [B]."""
        found = torch.empty((len(indices), *self.shape[1:]), dtype=torch.uint8)
        for part, start, end in zip(self.parts, self.starts[:-1], self.starts[1:], strict=True):
            here = ((indices >= start) & (indices < end)).nonzero().flatten()
            if len(here):
                places = indices[here] - start
                found[here] = part[places] if isinstance(part, Tensor) else part.rows(places)
        return found


Images = Tensor | MappedImages | JoinedImages


def joined(parts: Sequence[Images]) -> Images:
    """Splits one after the other, in memory if all of them are."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    mapped_too = [part for part in parts if not isinstance(part, JoinedImages)]
    return torch.cat(tensors) if len(tensors) == len(parts) else JoinedImages(mapped_too)


def mapped(folder: Path, split: str, meta: Meta) -> tuple[MappedImages, Tensor]:
    """Images and labels (int64 [N]) of a split; the labels are checked, the images will be. Raises `BadData` or `OSError`."""
    path, count = folder / f"{split}.safetensors", meta.counts[split]
    expected = header(count, meta.image)
    start, image = len(expected) + 8 * count, math.prod(meta.image)
    size = path.stat().st_size
    if size != start + count * image:
        raise BadData(f"{path}: {size} bytes; expected {start + count * image}; {CURE}")
    if split + CHECKSUMS in meta.files:
        whole, checksums = _recorded(
            folder / f"{split}{CHECKSUMS}.safetensors", meta.files[split + CHECKSUMS], count
        )
    else:
        whole, checksums = _computed(path, meta.files[split], start, count, image)
    with path.open("rb") as file:
        begin = file.read(start)
    if zlib.crc32(begin) != whole or not begin.startswith(expected):
        raise BadData(f"{path}: damaged before its images; {CURE}")
    labels = np.frombuffer(begin, "<i8", count, len(expected)).astype(np.int64)
    return MappedImages(path, start, (count, *meta.image), checksums), torch.from_numpy(labels)


def _recorded(path: Path, digest: str, count: int) -> tuple[int, Checksums]:
    """What prepare wrote beside a large split: crc32 of all that comes before the images, and of each image."""
    content = path.read_bytes()
    check_digest(path, hashlib.sha256(content).hexdigest(), digest)
    try:
        tensors = safetensors.load(content)
        begin, checksums = tensors["begin"], tensors["images"]
    except (SafetensorError, KeyError) as error:
        raise BadData(f"{path}: unreadable ({error}); {CURE}") from error
    if begin.shape != (1,) or checksums.shape != (count,):
        raise BadData(
            f"{path}: begin {list(begin.shape)}, images {list(checksums.shape)}; expected [1] and [{count}]; {CURE}"
        )
    return int(begin[0]), checksums


def _computed(path: Path, digest: str, start: int, count: int, image: int) -> tuple[int, Checksums]:
    """The same of a file without such a record, in the one pass that checks its sha256."""
    checksums = np.empty(count, np.uint32)
    with path.open("rb") as file:
        begin = file.read(start)
        whole = hashlib.sha256(begin)
        for index in range(count):
            content = file.read(image)
            whole.update(content)
            checksums[index] = zlib.crc32(content)
    check_digest(path, whole.hexdigest(), digest)
    return zlib.crc32(begin), checksums
