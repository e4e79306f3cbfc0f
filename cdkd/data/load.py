"""A prepared split, verified: its images in memory where they fit, else on disk."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from cdkd.core.errors import BadData
from cdkd.data.disk_images import Images, joined_images, on_disk
from cdkd.data.encoded_images import EncodedImages, encoded
from cdkd.data.prepared import HINT, SPLITS, check_digest, read_meta
from cdkd.storage.files import sha256

LIMIT = "CDKD_MEMORY_LIMIT"


def memory_limit() -> int:
    """Bytes of pixels above which a split stays on disk.

    CDKD_MEMORY_LIMIT, or a sixteenth of the machine's memory: several processes may hold the split.
    """
    text = os.environ.get(LIMIT)
    if text is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 16
    if not (text.isascii() and text.isdigit()):
        raise BadData(f"{LIMIT}: {text!r}; expected a number of bytes")
    return int(text)


def joined(parts: Sequence[Images | EncodedImages]) -> Images | EncodedImages:
    """The images of several splits one after the other; all splits of a data set are stored alike."""
    files = [file for part in parts if isinstance(part, EncodedImages) for file in part.files]
    if files:
        return EncodedImages(files, next(part.image for part in parts if isinstance(part, EncodedImages)))
    return joined_images([part for part in parts if not isinstance(part, EncodedImages)])


def load(folder: Path, split: str) -> tuple[Images | EncodedImages, Tensor]:
    """Images uint8 [N, H, W, C] and labels int64 [N] of a split; digests, shapes and labels are checked.

    Images of a split larger than `memory_limit` stay on disk, and each is checked when it is read.
    """
    meta = read_meta(folder)
    if split not in SPLITS:
        raise BadData(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
    path = folder / f"{split}.safetensors"
    images: Images | EncodedImages
    try:
        if meta.uncropped:
            images, labels = encoded(folder, split, meta)
        elif meta.counts[split] * math.prod(meta.image) > memory_limit():
            images, labels = on_disk(folder, split, meta)
        else:
            images, labels = _in_memory(path, meta.files[split], (meta.counts[split], *meta.image))
    except FileNotFoundError as error:
        raise BadData(f"{error.filename}: missing; {HINT}") from error
    except (OSError, KeyError) as error:
        raise BadData(f"{path}: unreadable ({error}); {HINT}") from error
    classes = len(meta.classes)
    invalid = ((labels < 0) | (labels >= classes)).nonzero()
    if len(invalid):
        index = int(invalid[0])
        raise BadData(
            f"{path}: label {int(labels[index])} at index {index}; expected 0 to {classes - 1}; {HINT}"
        )
    return images, labels


def _in_memory(path: Path, digest: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    check_digest(path, sha256(path), digest)
    try:
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise BadData(f"{path}: unreadable ({error}); {HINT}") from error
    if set(tensors) != {"images", "labels"}:
        raise BadData(f"{path}: contains {', '.join(sorted(tensors))}; expected images and labels; {HINT}")
    expected = {"images": (torch.uint8, list(shape)), "labels": (torch.int64, [shape[0]])}
    for name, (dtype, sizes) in expected.items():
        found = tensors[name]
        if found.dtype != dtype or list(found.shape) != sizes:
            raise BadData(
                f"{path}: {name} are {found.dtype} {list(found.shape)}; expected {dtype} {sizes}; {HINT}"
            )
    return tensors["images"], tensors["labels"]
