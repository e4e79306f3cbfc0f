"""Prepared splits: what is known about them without reading them (torch-free), and their images, trusted only by digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdkd.errors import BadData
from cdkd.files import digest, sha256

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "validation", "test")
FILE = "data.json"
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
    files: Mapping[str, str]  # sha256 of <split>.safetensors
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


def _meta(image: list[int], classes: list[str], per_class: dict[str, list[int]], mean: list[float], std: list[float], **rest: Any) -> Meta:
    height, width, channels = image
    numbers = {split: tuple(counts) for split, counts in per_class.items()}
    return Meta(image=(height, width, channels), classes=tuple(classes), per_class=numbers, mean=tuple(mean), std=tuple(std), **rest)


def load(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, H, W, C] and labels int64 [N] of a split, after its file's digest, shapes and labels were checked."""
    import safetensors.torch
    import torch

    meta = read_meta(folder)
    if split not in SPLITS:
        raise BadData(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
    path = folder / f"{split}.safetensors"
    try:
        found = sha256(path)
        if found != meta.files[split]:
            raise BadData(f"{path}: damaged, its sha256 is {found}; expected {meta.files[split]}; {CURE}")
        tensors = safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise BadData(f"{path}: missing; {CURE}") from error
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise BadData(f"{path}: unreadable ({error}); {CURE}") from error
    if set(tensors) != {"images", "labels"}:
        raise BadData(f"{path}: holds {', '.join(sorted(tensors))}; expected images and labels; {CURE}")
    expected = {"images": (torch.uint8, [meta.counts[split], *meta.image]), "labels": (torch.int64, [meta.counts[split]])}
    for name, (dtype, shape) in expected.items():
        if tensors[name].dtype != dtype or list(tensors[name].shape) != shape:
            raise BadData(f"{path}: {name} are {tensors[name].dtype} {list(tensors[name].shape)}; expected {dtype} {shape}; {CURE}")
    labels = tensors["labels"]
    wrong = ((labels < 0) | (labels >= len(meta.classes))).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise BadData(f"{path}: label {int(labels[index])} at index {index}; expected 0 to {len(meta.classes) - 1}; {CURE}")
    return tensors["images"], labels
