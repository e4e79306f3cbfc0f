"""Prepared splits: what is known about them without reading them (torch-free), and their images, trusted only by digest."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdkd.core.errors import BadData
from cdkd.storage.files import digest, sha256

if TYPE_CHECKING:
    from torch import Tensor

    from cdkd.data.mapped import Images

SPLITS = ("train", "validation", "test")
FILE = "data.json"
CHECKSUMS = ".crc32"  # the end of the name of the file with the checksums of a large split's images
LIMIT = "CDKD_MEMORY_LIMIT"
CURE = "run `cdkd prepare` to write it anew"


@dataclass(frozen=True)
class Meta:
    """data.json. `digest` covers all that decides a result: classes, image shape, mean, std, and the pixels and labels of each split."""

    source: str
    classes: tuple[str, ...]
    image: tuple[int, int, int]  # H, W, C
    counts: Mapping[str, int]
    per_class: Mapping[str, tuple[int, ...]]
    mean: tuple[float, ...]  # per channel, on the scale of 0 to 1
    std: tuple[float, ...]
    files: Mapping[
        str, str
    ]  # sha256 of <split>.safetensors, and of <split>.crc32.safetensors beside a large one
    overlap: int  # test images whose bytes occur among the training or validation images too
    digest: str

    def to_json(self) -> str:
        body = asdict(self)
        return json.dumps({**body, "check": digest(body)}, indent=1, ensure_ascii=False) + "\n"


def read_meta(folder: Path) -> Meta:
    """Raises `BadData` if data.json is missing or is not, to the letter, what prepare wrote."""
    path = folder / FILE
    try:
        body = json.loads(path.read_bytes())
        check = body.pop("check")
        if digest(body) != check:
            raise ValueError("its check does not fit its content")
        return _meta(**body)
    except FileNotFoundError as error:
        raise BadData(f"{path}: missing; run `cdkd prepare` first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadData(f"{path}: damaged ({error}); {CURE}") from error


def _meta(
    image: list[int],
    classes: list[str],
    per_class: dict[str, list[int]],
    mean: list[float],
    std: list[float],
    **rest: Any,
) -> Meta:
    height, width, channels = image
    numbers = {split: tuple(counts) for split, counts in per_class.items()}
    return Meta(
        image=(height, width, channels),
        classes=tuple(classes),
        per_class=numbers,
        mean=tuple(mean),
        std=tuple(std),
        **rest,
    )


def header(count: int, image: tuple[int, int, int]) -> bytes:
    """What a split's file begins with, as safetensors writes it: labels follow, and then images."""
    labels, pixels = 8 * count, count * math.prod(image)
    tensors = {
        "labels": {"dtype": "I64", "shape": [count], "data_offsets": [0, labels]},
        "images": {"dtype": "U8", "shape": [count, *image], "data_offsets": [labels, labels + pixels]},
    }
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def memory_limit() -> int:
    """Bytes of pixels above which a split stays on the disk: a sixteenth of the machine's memory (several processes may hold it),
    or what CDKD_MEMORY_LIMIT says."""
    text = os.environ.get(LIMIT)
    if text is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 16
    if not (text.isascii() and text.isdigit()):
        raise BadData(f"{LIMIT}: {text!r}; expected a number of bytes")
    return int(text)


def load(folder: Path, split: str) -> tuple[Images, Tensor]:
    """Images uint8 [N, H, W, C] and labels int64 [N] of a split, after digests, shapes and labels were checked.

    Images beyond `memory_limit` stay on the disk, and each is checked when it is read.
    """
    meta = read_meta(folder)
    if split not in SPLITS:
        raise BadData(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
    path = folder / f"{split}.safetensors"
    images: Images
    try:
        if meta.counts[split] * math.prod(meta.image) > memory_limit():
            from cdkd.data.mapped import mapped

            images, labels = mapped(folder, split, meta)
        else:
            images, labels = _whole(path, meta.files[split], (meta.counts[split], *meta.image))
    except FileNotFoundError as error:
        raise BadData(f"{error.filename}: missing; {CURE}") from error
    except (OSError, KeyError) as error:
        raise BadData(f"{path}: unreadable ({error}); {CURE}") from error
    wrong = ((labels < 0) | (labels >= len(meta.classes))).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise BadData(
            f"{path}: label {int(labels[index])} at index {index}; expected 0 to {len(meta.classes) - 1}; {CURE}"
        )
    return images, labels


def check_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise BadData(f"{path}: damaged, its sha256 is {found}; expected {expected}; {CURE}")


def _whole(path: Path, digest: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    import safetensors.torch
    import torch

    check_digest(path, sha256(path), digest)
    try:
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise BadData(f"{path}: unreadable ({error}); {CURE}") from error
    if set(tensors) != {"images", "labels"}:
        raise BadData(f"{path}: holds {', '.join(sorted(tensors))}; expected images and labels; {CURE}")
    expected = {"images": (torch.uint8, list(shape)), "labels": (torch.int64, [shape[0]])}
    for name, (dtype, sizes) in expected.items():
        if tensors[name].dtype != dtype or list(tensors[name].shape) != sizes:
            raise BadData(
                f"{path}: {name} are {tensors[name].dtype} {list(tensors[name].shape)}; expected {dtype} {sizes}; {CURE}"
            )
    return tensors["images"], tensors["labels"]
