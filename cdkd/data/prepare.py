"""From a source to prepared splits: draw, read, measure, write. Equal arguments and equal images give equal bytes."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cdkd import files
from cdkd.data.arrays import Count, Images, Labels, Source
from cdkd.data.draw import draw
from cdkd.data.prepared import FILE, SPLITS, Meta
from cdkd.data.sources import open_source
from cdkd.errors import BadData

Normalisation = Literal["measured"] | Mapping[str, Sequence[float]]
Splits = dict[str, tuple[Images, Labels]]


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
    Nothing in `target` is touched before all is read and written beside it; raises `BadData`.
    """
    opened = open_source(source, root, paths, size, progress)
    _check_labels(opened, source)
    kept = _kept(opened, train_images, seed)
    labels = opened.train[kept]
    held_out = _held_out(labels, validation, seed)
    images, test = opened.read(kept, progress)
    mean, std = _normalisation(images, normalisation)
    rest = np.setdiff1d(np.arange(len(kept)), held_out)
    splits = {"train": (images[rest], labels[rest]), "validation": (images[held_out], labels[held_out]), "test": (test, opened.test)}
    overlap = _overlap(images, test)
    del images
    return _write(target, source, opened.classes, splits, mean, std, overlap)


def _check_labels(source: Source, name: str) -> None:
    for split, labels in (("train", source.train), ("test", source.test)):
        if len(labels) == 0:
            raise BadData(f"{name}: split {split} has no images; expected at least 1")
        wrong = np.flatnonzero((labels < 0) | (labels >= len(source.classes)))
        if len(wrong):
            raise BadData(f"{name}: label {labels[wrong[0]]} at index {wrong[0]} of split {split}; expected 0 to {len(source.classes) - 1}")


def _kept(source: Source, train_images: int | None, seed: int) -> Labels:
    labels = source.train
    if train_images is None:
        return np.arange(len(labels))
    if train_images > len(labels):
        raise BadData(f"data.train_images: {train_images}; expected at most the source's {len(labels)}")
    kept = draw(labels, train_images, "train_images", seed)
    empty = np.flatnonzero(np.bincount(labels[kept], minlength=len(source.classes)) == 0)
    if len(empty):
        raise BadData(f"data.train_images: {train_images} leaves class {source.classes[empty[0]]!r} without a training image; expected more")
    return kept


def _held_out(labels: Labels, validation: float, seed: int) -> Labels:
    count = round(validation * len(labels))
    if count >= len(labels):
        raise BadData(f"data.validation: {validation} of {len(labels)} training images leaves none to train on; expected less")
    return draw(labels, count, "validation", seed)


def _normalisation(images: Images, wanted: Normalisation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One mean and one std a channel."""
    channels = images.shape[3]
    if isinstance(wanted, str):
        measured = [_measured(images[:, :, :, channel]) for channel in range(channels)]
        mean, std = (tuple(column) for column in zip(*measured, strict=True))
        if 0 in std:
            raise BadData(f"channel {std.index(0)} is the same in all training images, so its std is 0; give data.normalisation mean and std")
        return mean, std
    mean, std = (tuple(map(float, wanted[key])) for key in ("mean", "std"))
    if len(mean) not in (1, channels) or len(std) != len(mean):
        raise BadData(f"data.normalisation: {len(mean)} means and {len(std)} standard deviations; the images have {channels} channels")
    if not all(math.isfinite(number) for number in mean + std) or min(std) <= 0:
        raise BadData(f"data.normalisation: mean {list(mean)}, std {list(std)}; expected finite numbers and std above 0")
    return (mean * channels, std * channels) if len(mean) == 1 else (mean, std)


def _measured(values: Images) -> tuple[float, float]:
    """Mean and standard deviation of all pixels together, from whole-number sums: exact, whatever the machine."""
    counts = np.zeros(256, np.int64)
    for part in np.array_split(values, math.ceil(values.size / 2**24)):
        counts += np.bincount(part.ravel(), minlength=256)
    count, total, squares = (int(counts @ np.arange(256) ** power) for power in (0, 1, 2))
    variance = (count * squares - total * total) / (count * count)
    return round(total / count / 255, 4), round(math.sqrt(variance) / 255, 4)


def _overlap(train: Images, test: Images) -> int:
    def digests(images: Images) -> list[bytes]:
        return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]

    known = set(digests(train))
    return sum(digest in known for digest in digests(test))


def _content(images: Images, labels: Labels) -> str:
    """sha256 of the pixels and the labels, however a file holds them."""
    content = hashlib.sha256(np.ascontiguousarray(images).data)
    content.update(np.ascontiguousarray(labels, "<i8").data)
    return content.hexdigest()


def _write(target: Path, source: str, classes: tuple[str, ...], splits: Splits, mean: tuple[float, ...], std: tuple[float, ...], overlap: int) -> Meta:
    """Everything that can fail happens in a temporary folder; then four renames, data.json last.

    Whoever is killed between these leaves files that data.json's digests do not fit: `load` says so, and another prepare mends it.
    """
    height, width, channels = splits["train"][0].shape[1:]
    image = (height, width, channels)
    content = {split: _content(*arrays) for split, arrays in splits.items()}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for stale in target.glob(".prepare-*"):  # of a prepare that was killed
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".prepare-") as folder:
            written = {split: Path(folder) / f"{split}.safetensors" for split in SPLITS}
            for split, path in written.items():
                images, labels = splits[split]
                save_file({"images": np.ascontiguousarray(images), "labels": np.ascontiguousarray(labels)}, path)
                path.chmod(0o644)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            meta = Meta(
                source=source,
                classes=classes,
                image=image,
                counts={split: len(splits[split][1]) for split in SPLITS},
                per_class={split: tuple(map(int, np.bincount(splits[split][1], minlength=len(classes)))) for split in SPLITS},
                mean=mean,
                std=std,
                files={split: files.sha256(path) for split, path in written.items()},
                overlap=overlap,
                digest=files.digest({"classes": classes, "image": image, "mean": mean, "std": std, "splits": content}),
            )
            for path in written.values():
                os.replace(path, target / path.name)
            files.write_atomically(target / FILE, meta.to_json())
    except (OSError, SafetensorError) as error:
        raise BadData(f"{target}: the prepared data cannot be written ({error})") from error
    return meta
