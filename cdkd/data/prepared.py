"""The format of prepared data: data.json and the header of a split's file. Needs neither torch nor NumPy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cdkd.core.digest import digest
from cdkd.core.errors import BadData

SPLITS = ("train", "validation", "test")
FILE = "data.json"
CHECKSUMS = ".crc32"  # <split>.crc32.safetensors holds the checksums of a large split's images
HINT = "run `cdkd prepare` to write it again"


@dataclass(frozen=True)
class Meta:
    """data.json. `digest` covers what affects a result: classes, shape, mean, std, pixels and labels."""

    source: str
    classes: tuple[str, ...]
    image: tuple[int, int, int]  # H, W, C
    counts: Mapping[str, int]
    per_class: Mapping[str, tuple[int, ...]]
    mean: tuple[float, ...]  # per channel, on the scale of 0 to 1
    std: tuple[float, ...]
    files: Mapping[str, str]  # name without .safetensors -> sha256
    overlap: int  # test images whose bytes also occur among the training or validation images
    digest: str
    uncropped: bool = False  # images of any size, as the files they came in; `image` is what evaluation sees
    unused: Mapping[str, int] = field(
        default_factory=dict
    )  # suffix -> files of the source that were not used
    notes: tuple[str, ...] = ()  # what `prepare` reports about the source

    def to_json(self) -> str:
        body = asdict(self)
        return json.dumps({**body, "check": digest(body)}, indent=1, ensure_ascii=False) + "\n"


def read_meta(folder: Path) -> Meta:
    """Raises `BadData` if data.json is missing or differs in any way from what `prepare` wrote."""
    path = folder / FILE
    try:
        body = json.loads(path.read_bytes())
        check = body.pop("check")
        if digest(body) != check:
            raise ValueError("its checksum does not match its content")
        return _meta(**body)
    except FileNotFoundError as error:
        raise BadData(f"{path}: missing; run `cdkd prepare` first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadData(f"{path}: damaged ({error}); {HINT}") from error


def _meta(
    image: list[int],
    classes: list[str],
    per_class: dict[str, list[int]],
    mean: list[float],
    std: list[float],
    notes: list[str],
    **rest: Any,
) -> Meta:
    """The fields as `Meta` types them; JSON knows lists only."""
    height, width, channels = image
    return Meta(
        image=(height, width, channels),
        classes=tuple(classes),
        per_class={split: tuple(counts) for split, counts in per_class.items()},
        mean=tuple(mean),
        std=tuple(std),
        notes=tuple(notes),
        **rest,
    )


def encoded_header(count: int, size: int) -> bytes:
    """The same for uncropped images: labels, the end of each image's file, then the files, `size` bytes."""
    tensors = {
        "labels": {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]},
        "ends": {"dtype": "I64", "shape": [count], "data_offsets": [8 * count, 16 * count]},
        "images": {"dtype": "U8", "shape": [size], "data_offsets": [16 * count, 16 * count + size]},
    }
    return _header(tensors)


def header(count: int, image: tuple[int, int, int]) -> bytes:
    """The start of a split's file, exactly as safetensors writes it; the labels follow, then the images."""
    labels, pixels = 8 * count, count * math.prod(image)
    tensors = {
        "labels": {"dtype": "I64", "shape": [count], "data_offsets": [0, labels]},
        "images": {"dtype": "U8", "shape": [count, *image], "data_offsets": [labels, labels + pixels]},
    }
    return _header(tensors)


def _header(tensors: Mapping[str, Any]) -> bytes:
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def check_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise BadData(f"{path}: damaged, its sha256 is {found}; expected {expected}; {HINT}")
