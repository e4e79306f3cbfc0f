"""Batches of a prepared split, augmented on the device: functions of (seed, epoch, step)."""

from __future__ import annotations

import itertools
import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.errors import BadData
from cdkd.core.randomness import stream
from cdkd.data.disk_images import Images


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

    images: uint8 [N, H, W, C], in memory or mapped; labels: int64 [N]; mean, std: C values on the scale of 0 to 1, or
    one for all channels
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        channels = images.shape[3]
        if len(mean) not in (1, channels) or len(std) != len(mean):
            raise BadData(
                f"data.normalisation: {len(mean)} means and {len(std)} standard deviations for images of {channels} channels"
            )
        self.images = images.to(device) if isinstance(images, Tensor) else images
        self.labels = labels.to(device)
        scale, shift = (
            1.0 / (255.0 * torch.tensor(std, dtype=torch.float32)),
            torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32),
        )
        self.scale, self.shift = scale.expand(channels).to(device), shift.expand(channels).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def rows(self, indices: Tensor) -> Tensor:
        """Images by place: uint8 [B, H, W, C] on the device."""
        return (
            self.images[indices]
            if isinstance(self.images, Tensor)
            else self.images.rows(indices.cpu()).to(self.device)
        )

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, C] to float32 [B, C, H, W]."""
        count, height, width, channels = images.shape
        lines = images.reshape(
            count, height, width * channels
        ).float()  # long rows: three values at a time are slow
        lines.mul_(self.scale.repeat(width)).sub_(self.shift.repeat(width))
        return lines.view(count, height, width, channels).permute(0, 3, 1, 2)


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


def order(images: int, batch: int, seed: int, epoch: int) -> list[Tensor]:
    """The indices of each step of an epoch: every image once; a last batch of one joins the one before (BatchNorm)."""
    steps = list(torch.split(torch.randperm(images, generator=stream("order", seed, epoch)), batch))
    if len(steps) > 1 and len(steps[-1]) == 1:
        steps[-2:] = [torch.cat(steps[-2:])]
    return steps


class Batches:
    """The training batches of a split.

    With a crop after padding there are (2 pad + 1)² windows of an image, and each mirrored: its crops, counted row by
    row of corners, the mirrored one after its window. crops: how many; None with resized_crop.
    """

    def __init__(self, split: Split, augmentation: Augmentation, batch: int) -> None:
        if len(split) < 2:
            raise BadData(f"{len(split)} training images; expected at least 2")
        height, width = split.images.shape[1:3]
        pad = augmentation.pad
        if augmentation.padding == "reflect" and pad >= min(height, width):
            raise BadData(
                f"training.augmentation.pad: {pad}; reflection needs less than the image's side, {min(height, width)}"
            )
        self.split, self.augmentation, self.batch = split, augmentation, batch
        self.crops = (
            None if augmentation.resized_crop is not None else (2 * pad + 1) ** 2 * (1 + augmentation.flip)
        )
        self._windows = (
            _Windows(padded(split.images, pad, augmentation.padding), height, width, augmentation)
            if isinstance(split.images, Tensor)
            else None
        )

    def epoch(self, seed: int, epoch: int, views: int = 1) -> Iterator[Batch]:
        """views: augmented pictures of each image; view 0 is the same whatever their number."""
        steps = order(len(self.split), self.batch, seed, epoch)
        generators = [
            [stream(_augmentation(view), seed, epoch, step) for view in range(views)]
            for step in range(len(steps))
        ]
        if self.crops is not None and self._windows is not None:
            # drawn for the epoch at once, so that a GPU is sent two tensors an epoch
            drawn = [
                torch.stack([self._drawn(len(one), generator) for generator in each])
                for one, each in zip(steps, generators, strict=True)
            ]
            crops = torch.split(torch.cat(drawn, 1).to(self.split.device), [len(one) for one in steps], 1)
            places = torch.split(torch.cat(steps).to(self.split.device), [len(one) for one in steps])
            for step, (chosen, shown) in enumerate(zip(places, crops, strict=True)):
                images = tuple(self.split.normalised(self._windows(chosen, one)) for one in shown)
                yield Batch(images, self.split.labels[chosen], chosen, shown[0], seed, epoch, step)
        else:
            for step, batch in enumerate(self._ahead(steps, generators)):
                yield batch._replace(seed=seed, epoch=epoch, step=step)

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """The crops of one step: int64 [B]."""
        side = 2 * self.augmentation.pad + 1
        corners = torch.randint(side, (2, count), generator=generator)
        windows = corners[0] * side + corners[1]
        return (
            2 * windows + torch.randint(2, (count,), generator=generator)
            if self.augmentation.flip
            else windows
        )

    def _ahead(self, steps: list[Tensor], generators: list[list[torch.Generator]]) -> Iterator[Batch]:
        """Batches that take long are made by threads, some steps ahead; how many there are changes nothing but the time."""
        workers = min(8, os.cpu_count() or 1)
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(workers, "cdkd-batches") as pool:
            todo = zip(steps, generators, strict=True)
            try:
                waiting.extend(pool.submit(self._made, *step) for step in itertools.islice(todo, 2 * workers))
                while waiting:
                    batch = waiting.popleft().result()
                    waiting.extend(pool.submit(self._made, *step) for step in itertools.islice(todo, 1))
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()

    def _made(self, indices: Tensor, generators: list[torch.Generator]) -> Batch:
        chosen = indices.to(self.split.device)
        labels = self.split.labels[chosen]
        images, side = self.split.rows(indices), self.augmentation.resized_crop
        if side is not None:
            views = tuple(self._resized(images, side, generator) for generator in generators)
            return Batch(views, labels, chosen)
        crops = [self._drawn(len(chosen), generator).to(self.split.device) for generator in generators]
        height, width = images.shape[1:3]
        border = padded(images, self.augmentation.pad, self.augmentation.padding)
        windows = _Windows(border, height, width, self.augmentation)
        places = torch.arange(len(chosen), device=self.split.device)
        views = tuple(self.split.normalised(windows(places, one)) for one in crops)
        return Batch(views, labels, chosen, crops[0])

    def _resized(self, images: Tensor, side: int, generator: torch.Generator) -> Tensor:
        """A random part of each image (8 to 100 % of its area, 3:4 to 4:3), resized to side x side: float32 [B, C, H, W]."""
        boxes = random_boxes(len(images), images.shape[1], images.shape[2], generator)
        parts = []
        for image, (top, left, tall, wide) in zip(images, boxes, strict=True):
            part = self.split.normalised(image[None, top : top + tall, left : left + wide])
            parts.append(functional.interpolate(part, (side, side), mode="bilinear", antialias=True))
        resized = torch.cat(parts)
        if self.augmentation.flip:
            mirrored = torch.randint(2, (len(images),), generator=generator, dtype=torch.bool).to(
                images.device
            )
            resized = torch.where(mirrored[:, None, None, None], resized.flip(3), resized)
        return resized.contiguous(memory_format=torch.channels_last)


def _augmentation(view: int) -> str:
    """The name of a view's stream."""
    return "augmentation" if view == 0 else f"augmentation, view {view}"


class _Windows:
    """Every window of padded images, by (image, crop): uint8 [B, H, W, C]."""

    def __init__(self, images: Tensor, height: int, width: int, augmentation: Augmentation) -> None:
        self.side, self.flip = 2 * augmentation.pad + 1, augmentation.flip
        self.shape = (height, width, images.shape[3])
        image, down, across, _ = images.stride()
        # [N, side, side, H, W * C]: the windows overlap in memory, and each of their lines lies in one piece
        self.windows = images.as_strided(
            (len(images), self.side, self.side, height, width * images.shape[3]),
            (image, down, across, down, 1),
        )

    def __call__(self, chosen: Tensor, crops: Tensor) -> Tensor:
        corner = crops // 2 if self.flip else crops
        places = (chosen, corner // self.side, corner % self.side)
        if chosen.device.type != "cpu":
            images = self.windows[places].view(
                -1, *self.shape
            )  # and no question to the device about how many are mirrored
            return (
                torch.where((crops % 2 == 1)[:, None, None, None], images.flip(2), images)
                if self.flip
                else images
            )
        # NumPy copies a line, and a pixel's channels, as one thing: 14 and 3 times as fast as torch
        found = self.windows.numpy()[tuple(place.numpy() for place in places)].reshape(-1, *self.shape)
        if self.flip:
            pixels = found.view(f"V{self.shape[2]}")[..., 0]
            mirrored = (crops % 2).numpy().astype(bool)
            pixels[mirrored] = pixels[mirrored][:, :, ::-1]
        return torch.from_numpy(found)


def random_boxes(
    count: int, height: int, width: int, generator: torch.Generator
) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of each part, as torchvision's RandomResizedCrop draws them: ten tries, then the whole image."""
    area = height * width * (0.08 + 0.92 * torch.rand(count, 10, generator=generator))
    ratio = torch.exp((2 * torch.rand(count, 10, generator=generator) - 1) * math.log(4 / 3))
    tall, wide = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    places = torch.rand(count, 2, generator=generator)
    boxes = []
    for image in range(count):
        fits = [
            (int(h), int(w))
            for h, w in zip(tall[image], wide[image], strict=True)
            if 0 < h <= height and 0 < w <= width
        ]
        h, w = fits[0] if fits else (height, width)
        boxes.append(
            (int(places[image, 0] * (height - h + 1)), int(places[image, 1] * (width - w + 1)), h, w)
        )
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
        images = split.rows(indices)[:, top : top + tall, left : left + wide]
        yield Batch((split.normalised(images),), split.labels[indices], indices)
