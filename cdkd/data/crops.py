"""Crops of images: windows of padded images, and the boxes of random resized crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Box = tuple[int, int, int, int]  # top, left, height, width


class Augmentation(Protocol):
    """The section of params.yaml, as far as batches read it."""

    @property
    def pad(self) -> int: ...
    @property
    def padding(self) -> Literal["zeros", "reflect"]: ...
    @property
    def flip(self) -> bool: ...
    @property
    def resized_crop(self) -> int | None: ...


def padded(images: Tensor, pad: int, padding: Literal["zeros", "reflect"]) -> Tensor:
    """Images with a border of `pad` pixels: uint8 [N, H, W, C] to [N, H + 2 pad, W + 2 pad, C]."""
    if pad == 0:
        return images
    height, width = images.shape[1:3]

    def places(side: int) -> Tensor:
        place = torch.arange(-pad, side + pad, device=images.device).abs()
        return torch.where(place >= side, 2 * (side - 1) - place, place)

    if padding == "reflect":
        return images[:, places(height)][:, :, places(width)]
    return functional.pad(images, (0, 0, pad, pad, pad, pad))


class Windows:
    """Every window of padded images, by (image, crop): uint8 [B, H, W, C]."""

    def __init__(self, images: Tensor, height: int, width: int, augmentation: Augmentation) -> None:
        self.side, self.flip = 2 * augmentation.pad + 1, augmentation.flip
        self.shape = (height, width, images.shape[3])
        image, down, across, _ = images.stride()
        # [N, side, side, H, W * C]: the windows overlap in memory, and each of their lines is contiguous
        self.windows = images.as_strided(
            (len(images), self.side, self.side, height, width * images.shape[3]),
            (image, down, across, down, 1),
        )

    def __call__(self, chosen: Tensor, crops: Tensor) -> Tensor:
        corner = crops // 2 if self.flip else crops
        places = (chosen, corner // self.side, corner % self.side)
        if chosen.device.type != "cpu":
            # where() rather than an index of the mirrored: that would wait for the device to count them
            images = self.windows[places].view(-1, *self.shape)
            return (
                torch.where((crops % 2 == 1)[:, None, None, None], images.flip(2), images)
                if self.flip
                else images
            )
        # NumPy copies a line, and a pixel's channels, as one item: 14 and 3 times as fast as torch
        found = self.windows.numpy()[tuple(place.numpy() for place in places)].reshape(-1, *self.shape)
        if self.flip:
            pixels = found.view(f"V{self.shape[2]}")[..., 0]
            mirrored = (crops % 2).numpy().astype(bool)
            pixels[mirrored] = pixels[mirrored][:, :, ::-1]
        return torch.from_numpy(found)


def random_boxes(
    sizes: Sequence[tuple[int, int]],
    generator: torch.Generator,
    drawn: int | None = None,
    rows: slice | None = None,
) -> list[Box]:
    """A part of each image (height, width): 8 to 100 % of its area, with a ratio of sides from 3:4 to 4:3.

    Drawn as torchvision's RandomResizedCrop does: the first of ten that fits, else the largest centred part
    with such a ratio.

    drawn, rows: numbers are drawn for so many images, of which `sizes` are these rows; None: all are given
    """
    count, rows = drawn or len(sizes), rows or slice(None)
    pixels = torch.tensor([[height * width] for height, width in sizes], dtype=torch.float32)
    area = pixels * (0.08 + 0.92 * torch.rand(count, 10, generator=generator)[rows])
    ratio = torch.exp((2 * torch.rand(count, 10, generator=generator)[rows] - 1) * math.log(4 / 3))
    tall, wide = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    corners = torch.rand(count, 2, generator=generator)[rows]
    boxes = []
    for image, (height, width) in enumerate(sizes):
        fits = [
            (int(h), int(w))
            for h, w in zip(tall[image], wide[image], strict=True)
            if 0 < h <= height and 0 < w <= width
        ]
        if fits:
            h, w = fits[0]
            top, left = int(corners[image, 0] * (height - h + 1)), int(corners[image, 1] * (width - w + 1))
        else:
            h, w = min(height, round(width / 0.75)), min(width, round(height / 0.75))
            top, left = (height - h) // 2, (width - w) // 2
        boxes.append((top, left, h, w))
    return boxes
