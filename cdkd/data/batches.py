"""Batches of a prepared split, augmented on the device: functions of (seed, epoch, step)."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.errors import BadData
from cdkd.core.randomness import stream
from cdkd.core.ranks import Ranks, Share
from cdkd.data.crops import Augmentation, Windows, padded, random_boxes
from cdkd.data.disk_images import Images
from cdkd.data.encoded_images import EncodedImages


class Split:
    """Images and labels of a split on a device, with the constants that normalise them.

    images: uint8 [N, H, W, C], in memory or on disk, or uncropped; labels: int64 [N]
    mean, std: C values on the scale of 0 to 1, or one for all channels
    """

    def __init__(
        self,
        images: Images | EncodedImages,
        labels: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        channels = images.shape[3]
        if len(mean) not in (1, channels) or len(std) != len(mean):
            raise BadData(
                f"data.normalisation: {len(mean)} means and {len(std)} standard deviations for images of "
                f"{channels} channels"
            )
        self.images = images.to(device) if isinstance(images, Tensor) else images
        self.labels = labels.to(device)
        scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float32))
        shift = torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32)
        self.scale, self.shift = scale.expand(channels).to(device), shift.expand(channels).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def rows(self, indices: Tensor) -> Sequence[Tensor] | Tensor:
        """Images at `indices`, on the device: uint8 [B, H, W, C]; uncropped ones as a list of [H, W, C]."""
        if isinstance(self.images, Tensor):
            return self.images[indices]
        found = self.images.rows(indices.cpu())
        if isinstance(found, Tensor):
            return found.to(self.device)
        return [image.to(self.device) for image in found]

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, C] to float32 [B, C, H, W]."""
        count, height, width, channels = images.shape
        # long rows, because operations on three values at a time are slow
        lines = images.reshape(count, height, width * channels).float()
        lines.mul_(self.scale.repeat(width)).sub_(self.shift.repeat(width))
        return lines.view(count, height, width, channels).permute(0, 3, 1, 2)


def order(images: int, batch: int, seed: int, epoch: int) -> list[Tensor]:
    """The indices of each step of an epoch, every image once.

    A last batch of one joins the one before: BatchNorm cannot train on a single image.
    """
    steps = list(torch.split(torch.randperm(images, generator=stream("order", seed, epoch)), batch))
    if len(steps) > 1 and len(steps[-1]) == 1:
        steps[-2:] = [torch.cat(steps[-2:])]
    return steps


class Batches:
    """The training batches of a split.

    With a crop after padding, an image has (2 pad + 1)² crops, and each of them mirrored. They are numbered
    row by row, the mirrored one after the other. crops: how many; None with resized_crop.

    Several ranks draw the same batches, and each makes the pictures of its share.
    """

    def __init__(
        self, split: Split, augmentation: Augmentation, batch: int, ranks: Ranks | None = None
    ) -> None:
        if len(split) < 2:
            raise BadData(f"{len(split)} training images; expected at least 2")
        _check_crop(split, augmentation)
        height, width = split.images.shape[1:3]
        pad = augmentation.pad
        self.split, self.augmentation, self.batch, self.ranks = split, augmentation, batch, ranks
        random_crops = augmentation.resized_crop is not None
        self.crops = None if random_crops else (2 * pad + 1) ** 2 * (1 + augmentation.flip)
        self._windows = (
            Windows(padded(split.images, pad, augmentation.padding), height, width, augmentation)
            if isinstance(split.images, Tensor)
            else None
        )

    @property
    def steps(self) -> int:
        """The number of batches of an epoch; see `order`."""
        whole, rest = divmod(len(self.split), self.batch)
        return whole + (rest > 1 or whole == 0)

    def epoch(
        self, seed: int, epoch: int, views: int = 1, first: int = 0, until: int | None = None
    ) -> Iterator[Batch]:
        """views: augmented pictures of each image; view 0 is the same whatever their number.

        first, until: the steps from `first` to before `until`; None: to the end
        """
        steps = order(len(self.split), self.batch, seed, epoch)[first:until]
        if not steps:
            return
        generators = [
            [stream(_augmentation(view), seed, epoch, step) for view in range(views)]
            for step in range(first, first + len(steps))
        ]
        if self.crops is not None and self._windows is not None:
            # drawn for the epoch at once, so that a GPU receives two tensors per epoch
            drawn = [
                torch.stack([self._drawn(len(one), generator) for generator in each])
                for one, each in zip(steps, generators, strict=True)
            ]
            crops = torch.split(torch.cat(drawn, 1).to(self.split.device), [len(one) for one in steps], 1)
            indices = torch.split(torch.cat(steps).to(self.split.device), [len(one) for one in steps])
            for step, (whole, drawn_crops) in enumerate(zip(indices, crops, strict=True), first):
                share, rows = self._share(whole)
                chosen, shown = whole[rows], drawn_crops[:, rows]
                images = tuple(self.split.normalised(self._windows(chosen, one)) for one in shown)
                yield Batch(images, self.split.labels[chosen], chosen, shown[0], seed, epoch, step, share)
        else:
            jobs = (partial(self._batch, *step) for step in zip(steps, generators, strict=True))
            for step, batch in enumerate(_ahead(jobs), first):
                yield batch._replace(seed=seed, epoch=epoch, step=step)

    def _share(self, indices: Tensor) -> tuple[Share | None, slice]:
        """This rank's share of a batch, and the rows that it shows."""
        if self.ranks is None:
            return None, slice(None)
        share = Share(self.ranks, self.split.labels[indices], indices)
        return share, share.shown

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """The crops of one step: int64 [B]."""
        side = 2 * self.augmentation.pad + 1
        corners = torch.randint(side, (2, count), generator=generator)
        windows = corners[0] * side + corners[1]
        if not self.augmentation.flip:
            return windows
        return 2 * windows + torch.randint(2, (count,), generator=generator)

    def _batch(self, indices: Tensor, generators: list[torch.Generator]) -> Batch:
        share, rows = self._share(indices.to(self.split.device))
        chosen = indices.to(self.split.device)[rows]
        labels, count = self.split.labels[chosen], len(indices)
        images, side = self.split.rows(indices[rows]), self.augmentation.resized_crop
        if side is not None:
            views = tuple(self._resized(images, side, generator, count, rows) for generator in generators)
            return Batch(views, labels, chosen, share=share)
        assert isinstance(images, Tensor)  # see _check_crop
        crops = [self._drawn(count, generator)[rows].to(self.split.device) for generator in generators]
        height, width = images.shape[1:3]
        border = padded(images, self.augmentation.pad, self.augmentation.padding)
        windows = Windows(border, height, width, self.augmentation)
        every = torch.arange(len(chosen), device=self.split.device)
        views = tuple(self.split.normalised(windows(every, one)) for one in crops)
        return Batch(views, labels, chosen, crops[0], share=share)

    def _resized(
        self,
        images: Sequence[Tensor] | Tensor,
        side: int,
        generator: torch.Generator,
        count: int,
        rows: slice,
    ) -> Tensor:
        """A random part of each image, resized to side x side, mirrored at random: float32 [B, C, H, W].

        count, rows: see `random_boxes`
        """
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        boxes = random_boxes(sizes, generator, count, rows)
        parts = []
        for image, (top, left, tall, wide) in zip(images, boxes, strict=True):
            part = self.split.normalised(image[None, top : top + tall, left : left + wide])
            parts.append(functional.interpolate(part, (side, side), mode="bilinear", antialias=True))
        resized = torch.cat(parts)
        if self.augmentation.flip:
            mirrored = torch.randint(2, (count,), generator=generator, dtype=torch.bool)[rows]
            mirrored = mirrored.to(resized.device)
            resized = torch.where(mirrored[:, None, None, None], resized.flip(3), resized)
        return resized.contiguous(memory_format=torch.channels_last)


def _augmentation(view: int) -> str:
    """The name of a view's random stream."""
    return "augmentation" if view == 0 else f"augmentation, view {view}"


def _check_crop(split: Split, augmentation: Augmentation) -> None:
    height, width = split.images.shape[1:3]
    pad, side = augmentation.pad, min(height, width)
    if isinstance(split.images, EncodedImages) and augmentation.resized_crop is None:
        raise BadData(
            "data.uncropped: the images are of different sizes; set training.augmentation.resized_crop to "
            "the side of the crops"
        )
    if augmentation.padding == "reflect" and pad >= side:
        raise BadData(
            f"training.augmentation.pad: {pad}; reflection needs less than the image's side, {side}"
        )
    if pad > side:
        raise BadData(
            f"training.augmentation.pad: {pad}; expected at most the image's side, {side}: "
            "a crop could miss the image"
        )


def _ahead(jobs: Iterable[Callable[[], Batch]]) -> Iterator[Batch]:
    """The batches of slow jobs, in order, computed by threads in advance.

    The number of threads changes the time and nothing else.
    """
    jobs = iter(jobs)
    workers = min(8, os.cpu_count() or 1)
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, "cdkd-batches") as pool:
        try:
            waiting.extend(pool.submit(job) for job in itertools.islice(jobs, 2 * workers))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(job) for job in itertools.islice(jobs, 1))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def evaluation(split: Split, augmentation: Augmentation, batch: int = 500) -> Iterator[Batch]:
    """The split in order, without augmentation; with resized_crop, the centre of that size.

    Uncropped images are first resized, so that the shorter side is data.size.
    """
    side, images = augmentation.resized_crop, split.images
    steps = torch.split(torch.arange(len(split), device=split.device), batch)
    if isinstance(images, EncodedImages):
        size = images.shape[1]
        yield from _ahead(partial(_centres, split, images, indices, side or size) for indices in steps)
        return
    height, width = images.shape[1:3]
    top, left, tall, wide = 0, 0, height, width
    if side is not None:
        tall, wide = min(side, height), min(side, width)
        top, left = (height - tall) // 2, (width - wide) // 2
    for indices in steps:
        rows = split.rows(indices)
        assert isinstance(rows, Tensor)
        shown = rows[:, top : top + tall, left : left + wide]
        yield Batch((split.normalised(shown),), split.labels[indices], indices)


def _centres(split: Split, images: EncodedImages, indices: Tensor, side: int) -> Batch:
    shown = images.centres(indices.cpu(), side).to(split.device)
    return Batch((split.normalised(shown),), split.labels[indices], indices)
