"""The checksums by which images on disk are verified one by one."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from cdkd.core.errors import BadData
from cdkd.data.prepared import CHECKSUMS, HINT, Meta, check_digest

Checksums = NDArray[np.uint32]  # [N], crc32 of each image


def checksums(folder: Path, split: str, meta: Meta, begin: bytes, sizes: Iterable[int]) -> Checksums:
    """Of each image of a split, recorded or computed; `begin`, the file up to the images, is verified here.

    sizes: bytes of each image
    """
    path, count = folder / f"{split}.safetensors", meta.counts[split]
    if split + CHECKSUMS in meta.files:
        recorded = folder / f"{split}{CHECKSUMS}.safetensors"
        begin_crc, found = _recorded(recorded, meta.files[split + CHECKSUMS], count)
    else:
        begin_crc, found = _computed(path, meta.files[split], len(begin), sizes)
    if zlib.crc32(begin) != begin_crc:
        raise BadData(f"{path}: damaged before its images; {HINT}")
    return found


def read_verified(file: int, path: Path, index: int, offset: int, buffer: memoryview, crc: int) -> None:
    """Fill the buffer from the offset, for image `index`. Raises `BadData` if its checksum does not match.

    `pread` rather than a memory map: with a map, a failing disk or a truncated file kills the process by a
    signal, without a message.
    """
    done = 0
    try:
        while done < len(buffer):  # the system may return fewer bytes than asked for
            got = os.preadv(file, [buffer[done:]], offset + done)
            if got == 0:
                raise BadData(f"{path}: ends within image {index}; {HINT}")
            done += got
    except OSError as error:
        raise BadData(f"{path}: image {index} cannot be read ({error}); {HINT}") from error
    found = zlib.crc32(buffer)
    if found != crc:
        raise BadData(
            f"{path}: image {index} is damaged, its crc32 is {found:08x}; expected {crc:08x}; {HINT}"
        )


def _recorded(path: Path, digest: str, count: int) -> tuple[int, Checksums]:
    """From <split>.crc32.safetensors: the crc32 of everything before the images, and that of each image."""
    content = path.read_bytes()
    check_digest(path, hashlib.sha256(content).hexdigest(), digest)
    try:
        tensors = safetensors.load(content)
        begin, checksums = tensors["begin"], tensors["images"]
    except (SafetensorError, KeyError) as error:
        raise BadData(f"{path}: unreadable ({error}); {HINT}") from error
    if begin.shape != (1,) or checksums.shape != (count,):
        raise BadData(
            f"{path}: begin {list(begin.shape)}, images {list(checksums.shape)}; "
            f"expected [1] and [{count}]; {HINT}"
        )
    return int(begin[0]), checksums


def _computed(path: Path, digest: str, start: int, sizes: Iterable[int]) -> tuple[int, Checksums]:
    """The same for a split without recorded checksums, in the one pass that verifies its sha256."""
    checksums = []
    with path.open("rb") as file:
        begin = file.read(start)
        sha256 = hashlib.sha256(begin)
        for size in sizes:
            content = file.read(size)
            sha256.update(content)
            checksums.append(zlib.crc32(content))
    check_digest(path, sha256.hexdigest(), digest)
    return zlib.crc32(begin), np.array(checksums, np.uint32)
