"""From a source to prepared splits: draw, read, measure, write. Equal arguments and equal images give equal bytes.

Images go to the disk as they are read, so that a data set need not fit the memory.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cdkd.core.errors import BadData
from cdkd.data.arrays import Count, Images, Labels, Source
from cdkd.data.draw import draw
from cdkd.data.prepared import CHECKSUMS, FILE, SPLITS, Meta, header
from cdkd.data.sources import open_source
from cdkd.storage import files

Normalisation = Literal["measured"] | Mapping[str, Sequence[float]]

LARGE = (
    2**30
)  # bytes of pixels from which on a split gets a checksum for each image; not the machine's: equal images give equal files
BLOCK = 2**18  # values that are counted at once


class Drawn(NamedTuple):
    """Which training images are kept, and where images go. The images: those kept, then all of the test split."""

    kept: Labels
    split: NDArray[np.int8]  # of each image: its place in SPLITS
    labels: dict[str, Labels]  # of each split


def prepare(
    target: Path,
    root: Path,
    *,
    source: str,
    paths: Sequence[str],
    size: int | None,
    train_images: int | None,
    validation: float,
    seed: int,
    normalisation: Normalisation,
    progress: Count | None = None,
) -> Meta:
    """Write train, validation and test splits, and data.json, into the folder `target`; relative paths start from `root`.

    The source's test split stays whole. Of its training images, `train_images` are kept (None: all), and the share `validation` of these
    is cut out; both draws are stratified, and functions of `seed`. mean and std, where measured, are of train and validation together.
    What `target` held is not touched before all is read and written beside it; raises `BadData`.
    """
    opened = open_source(source, root, paths, size, progress)
    _check_labels(opened, source)
    drawn = _drawn(opened, train_images, validation, seed)
    try:
        return _written(target, source, opened, drawn, normalisation, progress, colour=False)
    except _Colour:
        return _written(target, source, opened, drawn, normalisation, progress, colour=True)


def _check_labels(source: Source, name: str) -> None:
    for split, labels in (("train", source.train), ("test", source.test)):
        if len(labels) == 0:
            raise BadData(f"{name}: split {split} has no images; expected at least 1")
        wrong = np.flatnonzero((labels < 0) | (labels >= len(source.classes)))
        if len(wrong):
            raise BadData(
                f"{name}: label {labels[wrong[0]]} at index {wrong[0]} of split {split}; expected 0 to {len(source.classes) - 1}"
            )


def _drawn(source: Source, train_images: int | None, validation: float, seed: int) -> Drawn:
    kept = _kept(source, train_images, seed)
    labels = source.train[kept]
    split = np.zeros(len(kept) + len(source.test), np.int8)
    split[_held_out(labels, validation, seed)] = SPLITS.index("validation")
    split[len(kept) :] = SPLITS.index("test")
    every = np.concatenate([labels, source.test])
    return Drawn(kept, split, {name: every[split == number] for number, name in enumerate(SPLITS)})


def _kept(source: Source, train_images: int | None, seed: int) -> Labels:
    labels = source.train
    if train_images is None:
        return np.arange(len(labels))
    if train_images > len(labels):
        raise BadData(f"data.train_images: {train_images}; expected at most the source's {len(labels)}")
    kept = draw(labels, train_images, "train_images", seed)
    empty = np.flatnonzero(np.bincount(labels[kept], minlength=len(source.classes)) == 0)
    if len(empty):
        raise BadData(
            f"data.train_images: {train_images} leaves class {source.classes[empty[0]]!r} without a training image; expected more"
        )
    return kept


def _held_out(labels: Labels, validation: float, seed: int) -> Labels:
    count = round(validation * len(labels))
    if count >= len(labels):
        raise BadData(
            f"data.validation: {validation} of {len(labels)} training images leaves none to train on; expected less"
        )
    return draw(labels, count, "validation", seed)


class _Colour(Exception):
    """An image in colour after grey ones only: the splits are begun again, with 3 channels for all."""


def _written(
    target: Path,
    source: str,
    opened: Source,
    drawn: Drawn,
    normalisation: Normalisation,
    progress: Count | None,
    *,
    colour: bool,
) -> Meta:
    """All splits and data.json; with `colour`, grey images get 3 channels. Raises `_Colour` where `colour` should have been set."""
    with ExitStack() as stack:
        parts = stack.enter_context(closing(opened.read(drawn.kept, progress)))
        first = next(parts)  # before anything is written, as it tells the shape, and may tell faults
        image = (first.shape[1], first.shape[2], 3 if colour else first.shape[3])
        seen = _Seen(image[2], measured=isinstance(normalisation, str))
        if image[2] == 3 and not seen.measured:
            _normalisation(seen.counts, normalisation)  # refused now rather than after hours
        folder = stack.enter_context(_beside(target, _need(drawn, image)))
        pool = stack.enter_context(ThreadPoolExecutor(4))
        splits = {
            name: stack.enter_context(closing(_Split(folder, name, drawn.labels[name], image, pool)))
            for name in SPLITS
        }
        place = 0
        for part in chain([first], parts):
            _add(part, drawn.split[place : place + len(part)], splits, seen)
            place += len(part)
        if place != len(drawn.split):
            raise BadData(f"{source}: {place} images were read; expected {len(drawn.split)}")
        meta = _meta(source, opened.classes, image, splits, seen, normalisation)
        _put(folder, target, meta)
    return meta


def _add(part: Images, numbers: NDArray[np.int8], splits: dict[str, _Split], seen: _Seen) -> None:
    """Each image to its split."""
    channels = len(seen.counts)
    if part.shape[3] > channels:
        raise _Colour
    for number, name in enumerate(SPLITS):  # the test split last, as `seen.test` wants it
        images = part[numbers == number]
        if len(images):
            wide = images if images.shape[3] == channels else np.repeat(images, channels, axis=3)
            splits[name].add(np.ascontiguousarray(wide), seen.test if name == "test" else seen.train)


def _meta(
    source: str,
    classes: tuple[str, ...],
    image: tuple[int, int, int],
    splits: dict[str, _Split],
    seen: _Seen,
    normalisation: Normalisation,
) -> Meta:
    mean, std = _normalisation(seen.counts, normalisation)
    written = {name: digest for split in splits.values() for name, digest in split.finished().items()}
    content = {name: split.content.hexdigest() for name, split in splits.items()}
    return Meta(
        source=source,
        classes=classes,
        image=image,
        counts={name: len(split.labels) for name, split in splits.items()},
        per_class={
            name: tuple(map(int, np.bincount(split.labels, minlength=len(classes))))
            for name, split in splits.items()
        },
        mean=mean,
        std=std,
        files=written,
        overlap=seen.overlap,
        digest=files.digest(
            {"classes": classes, "image": image, "mean": mean, "std": std, "splits": content}
        ),
    )


def _put(folder: Path, target: Path, meta: Meta) -> None:
    """Some renames, data.json last.

    Whoever is killed between these leaves files that data.json's digests do not fit: `load` says so, and another prepare mends it.
    """
    for name in meta.files:
        os.replace(folder / f"{name}.safetensors", target / f"{name}.safetensors")
    files.write_atomically(target / FILE, meta.to_json())
    for name in SPLITS:
        if name + CHECKSUMS not in meta.files:
            (target / f"{name}{CHECKSUMS}.safetensors").unlink(missing_ok=True)  # of an earlier, larger set


def _need(drawn: Drawn, image: tuple[int, int, int]) -> int:
    """Bytes of disk, the small files' generously."""
    return len(drawn.split) * (math.prod(image) + 12) + 2**16


@contextmanager
def _beside(target: Path, need: int) -> Iterator[Path]:
    """A temporary folder in `target`, on a disk that has room for `need` bytes. Folders made for it go again if nothing comes into them."""
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        files.clear_drafts(target, ".prepare-")  # room
        free = shutil.disk_usage(made[-1].parent if made else target).free
        if need > free:
            raise BadData(
                f"{target}: the prepared data need {need:,} bytes, the disk has {free:,} free; make room, or lower data.size or data.train_images"
            )
        target.mkdir(parents=True, exist_ok=True)
        with files.draft_folder(target, ".prepare-") as folder:
            yield folder
    except OSError as error:
        raise BadData(f"{target}: the prepared data cannot be written ({error})") from error
    finally:
        for empty in made:
            with suppress(OSError):  # it holds the data
                empty.rmdir()


class _Split:
    """A split's file as it grows, with its digests: `add` until all images are there, then `finished`."""

    def __init__(
        self, folder: Path, name: str, labels: Labels, image: tuple[int, int, int], pool: ThreadPoolExecutor
    ) -> None:
        self.folder, self.name, self.labels, self.pool = folder, name, labels, pool
        begin = header(len(labels), image) + self._label_bytes()
        self.digest = hashlib.sha256(begin)  # of the file
        self.content = hashlib.sha256()  # of the pixels and then the labels, however a file holds them
        self.begin = zlib.crc32(begin)
        self.checksums = array("I") if len(labels) * math.prod(image) >= LARGE else None
        self.file = (folder / f"{name}.safetensors").open("wb")
        self.file.write(begin)

    def add(self, images: Images, look: Callable[[Images], None]) -> None:
        """Write the next images; meanwhile `look` at them and go on with the digests, which are slow and need no interpreter's lock."""
        data = images.reshape(-1).data

        def check() -> None:
            if self.checksums is not None:
                self.checksums.extend(zlib.crc32(image.data) for image in images)

        jobs: list[Callable[[], Any]] = [
            lambda: self.file.write(data),
            lambda: self.digest.update(data),
            lambda: self.content.update(data),
            lambda: look(images),
            check,
        ]
        for _ in self.pool.map(lambda job: job(), jobs):
            pass

    def close(self) -> None:
        self.file.close()

    def finished(self) -> dict[str, str]:
        """The sha256 of each of the split's files, now durable, by its name without .safetensors."""
        self.content.update(self._label_bytes())
        _make_durable(self.file)
        written = {self.name: self.digest.hexdigest()}
        if self.checksums is not None:
            name = self.name + CHECKSUMS
            content = save(
                {"images": np.array(self.checksums, np.uint32), "begin": np.array([self.begin], np.uint32)}
            )
            with (self.folder / f"{name}.safetensors").open("wb") as file:
                file.write(content)
                _make_durable(file)
            written[name] = hashlib.sha256(content).hexdigest()
        return written

    def _label_bytes(self) -> bytes:
        return np.ascontiguousarray(self.labels, "<i8").tobytes()


def _make_durable(file: BinaryIO) -> None:
    file.flush()
    os.fchmod(file.fileno(), 0o644)
    os.fsync(file.fileno())


class _Seen:
    """What is known of all images together: how often each value occurs in training, by channel, and how many images are tested and trained on."""

    def __init__(self, channels: int, *, measured: bool) -> None:
        self.measured = measured
        self.counts = np.zeros((channels, 256), np.int64)
        self.known: set[bytes] = set()
        self.overlap = 0

    def train(self, images: Images) -> None:
        self.known.update(_digests(images))
        if self.measured:
            for block in np.array_split(images.reshape(-1, len(self.counts)), math.ceil(images.size / BLOCK)):
                for channel, counts in enumerate(self.counts):
                    counts += np.bincount(block[:, channel], minlength=256)

    def test(self, images: Images) -> None:
        """After all training images were seen."""
        self.overlap += sum(digest in self.known for digest in _digests(images))


def _digests(images: Images) -> Iterator[bytes]:
    return (hashlib.blake2b(image.data, digest_size=16).digest() for image in images)


def _normalisation(
    counts: NDArray[np.int64], wanted: Normalisation
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One mean and one std a channel."""
    channels = len(counts)
    if isinstance(wanted, str):
        mean, std = (tuple(column) for column in zip(*map(_measured, counts), strict=True))
        if 0 in std:
            raise BadData(
                f"channel {std.index(0)} is the same in all training images, so its std is 0; give data.normalisation mean and std"
            )
        return mean, std
    mean, std = (tuple(map(float, wanted[key])) for key in ("mean", "std"))
    if len(mean) not in (1, channels) or len(std) != len(mean):
        raise BadData(
            f"data.normalisation: {len(mean)} means and {len(std)} standard deviations; the images have {channels} channels"
        )
    if not all(math.isfinite(number) for number in mean + std) or min(std) <= 0:
        raise BadData(
            f"data.normalisation: mean {list(mean)}, std {list(std)}; expected finite numbers and std above 0"
        )
    return (mean * channels, std * channels) if len(mean) == 1 else (mean, std)


def _measured(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels together, from whole-number sums: exact, whatever the machine."""
    count, total, squares = (int(counts @ np.arange(256) ** power) for power in (0, 1, 2))
    variance = (count * squares - total * total) / (count * count)
    return round(total / count / 255, 4), round(math.sqrt(variance) / 255, 4)
