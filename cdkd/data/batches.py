"""Batches of a prepared split, augmented on the device: functions of (seed, epoch, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from cdkd.data.randomness import stream
from cdkd.errors import BadData


class Batch(NamedTuple):
    images: Tensor  # [B, C, H, W] float32, normalised, channels last in memory
    labels: Tensor  # [B] int64
    indices: Tensor  # [B] int64, places in the split


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


class Split:
    """Images and labels of a split on a device, with the constants that normalise them.

    images: uint8 [N, H, W, C]; labels: int64 [N]; mean, std: C values on the scale of 0 to 1, or one for all channels
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        channels = images.shape[3]
        if len(mean) not in (1, channels) or len(std) != len(mean):
            raise BadData(f"data.normalisation: {len(mean)} means and {len(std)} standard deviations for images of {channels} channels")
        self.images, self.labels = images.to(device), labels.to(device)
        self.scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float32, device=device))
        self.shift = torch.tensor(mean, dtype=torch.float32, device=device) / torch.tensor(std, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def padded(self, pad: int, padding: Literal["zeros", "reflect"]) -> Tensor:
        """All images with a border of `pad` pixels: uint8 [N, H + 2 pad, W + 2 pad, C]."""
        if pad == 0:
            return self.images
        height, width = self.images.shape[1:3]
        if padding == "reflect" and pad >= min(height, width):
            raise BadData(f"training.augmentation.pad: {pad}; reflection needs less than the image's side, {min(height, width)}")

        def places(side: int) -> Tensor:
            place = torch.arange(-pad, side + pad, device=self.device).abs()
            return torch.where(place >= side, 2 * (side - 1) - place, place)

        if padding == "reflect":
            return self.images[:, places(height)][:, :, places(width)]
        return functional.pad(self.images, (0, 0, pad, pad, pad, pad))

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, C] to float32 [B, C, H, W]."""
        return (images.float() * self.scale - self.shift).permute(0, 3, 1, 2)


def order(images: int, batch: int, seed: int, epoch: int) -> list[Tensor]:
    """The indices of each step of an epoch: every image once; a last batch of one joins the one before (BatchNorm)."""
    steps = list(torch.split(torch.randperm(images, generator=stream("order", seed, epoch)), batch))
    if len(steps) > 1 and len(steps[-1]) == 1:
        steps[-2:] = [torch.cat(steps[-2:])]
    return steps


class Batches:
    """The training batches of a split."""

    def __init__(self, split: Split, augmentation: Augmentation, batch: int) -> None:
        if len(split) < 2:
            raise BadData(f"{len(split)} training images; expected at least 2")
        self.split, self.augmentation, self.batch = split, augmentation, batch
        self.padded = split.padded(augmentation.pad, augmentation.padding)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        for step, indices in enumerate(order(len(self.split), self.batch, seed, epoch)):
            generator = stream("augmentation", seed, epoch, step)
            chosen = indices.to(self.split.device)
            if self.augmentation.resized_crop is None:
                images = self.split.normalised(self._cropped(chosen, generator))
            else:
                images = self._resized(chosen, self.augmentation.resized_crop, generator)
            yield Batch(images, self.split.labels[chosen], chosen)

    def _flips(self, count: int, generator: torch.Generator) -> Tensor:
        coins = torch.randint(2, (count,), generator=generator, dtype=torch.bool) if self.augmentation.flip else torch.zeros(count, dtype=torch.bool)
        return coins.to(self.split.device)

    def _cropped(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Each image's window of the original size at a random place, flipped or not, in one gather: uint8 [B, H, W, C]."""
        height, width = self.split.images.shape[1:3]
        count, device = len(chosen), self.split.device
        corner = torch.randint(2 * self.augmentation.pad + 1, (2, count), generator=generator).to(device)
        across = torch.arange(width, device=device).expand(count, width)
        across = torch.where(self._flips(count, generator)[:, None], width - 1 - across, across) + corner[1][:, None]
        down = torch.arange(height, device=device) + corner[0][:, None]
        return self.padded[chosen[:, None, None], down[:, :, None], across[:, None, :]]

    def _resized(self, chosen: Tensor, side: int, generator: torch.Generator) -> Tensor:
        """A random part of each image (8 to 100 % of its area, 3:4 to 4:3), resized to side x side: float32 [B, C, H, W]."""
        height, width = self.split.images.shape[1:3]
        boxes = random_boxes(len(chosen), height, width, generator)
        parts = []
        for index, (top, left, tall, wide) in zip(chosen, boxes, strict=True):
            part = self.split.normalised(self.split.images[index, top : top + tall, left : left + wide][None])
            parts.append(functional.interpolate(part, (side, side), mode="bilinear", antialias=True))
        images = torch.cat(parts)
        flipped = torch.where(self._flips(len(chosen), generator)[:, None, None, None], images.flip(3), images)
        return flipped.contiguous(memory_format=torch.channels_last)


def random_boxes(count: int, height: int, width: int, generator: torch.Generator) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of each part, as torchvision's RandomResizedCrop draws them: ten tries, then the whole image."""
    area = height * width * (0.08 + 0.92 * torch.rand(count, 10, generator=generator))
    ratio = torch.exp((2 * torch.rand(count, 10, generator=generator) - 1) * math.log(4 / 3))
    tall, wide = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    places = torch.rand(count, 2, generator=generator)
    boxes = []
    for image in range(count):
        fits = [(int(h), int(w)) for h, w in zip(tall[image], wide[image], strict=True) if 0 < h <= height and 0 < w <= width]
        h, w = fits[0] if fits else (height, width)
        boxes.append((int(places[image, 0] * (height - h + 1)), int(places[image, 1] * (width - w + 1)), h, w))
    return boxes


def evaluation(split: Split, augmentation: Augmentation, batch: int = 500) -> Iterator[Batch]:
    """The split in order, as it is; with resized_crop, the centre of that size."""
    side = augmentation.resized_crop
    height, width = split.images.shape[1:3]
    top, left, tall, wide = 0, 0, height, width
    if side is not None:
        tall, wide = min(side, height), min(side, width)
        top, left = (height - tall) // 2, (width - wide) // 2
    for indices in torch.split(torch.arange(len(split), device=split.device), batch):
        images = split.images[indices, top : top + tall, left : left + wide]
        yield Batch(split.normalised(images), split.labels[indices], indices)
