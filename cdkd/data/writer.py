"""Writes splits image by image, next to the earlier ones, and replaces these once everything is on disk."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cdkd.core.digest import digest
from cdkd.core.errors import BadData
from cdkd.data.arrays import Labels, Source
from cdkd.data.image_statistics import Normalisation, mean_and_std
from cdkd.data.prepared import CHECKSUMS, FILE, SPLITS, Meta, header
from cdkd.storage import files

# bytes of pixels from which a split gets a checksum for each image; the same on every machine
LARGE = 2**30

Buffer = bytes | memoryview


class SplitWriter:
    """Writes one split's file and computes its digests: `add` for all images, then `finish`.

    begin: the file up to the images; described: what of it is part of the content, whatever the format
    size: bytes of all images
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        labels: Labels,
        begin: bytes,
        described: bytes,
        size: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.folder, self.name, self.labels, self.pool = folder, name, labels, pool
        self.content = hashlib.sha256()  # of the images and then what describes them
        self._described = described
        self._sha256 = hashlib.sha256(begin)  # of the file
        self._begin_crc = zlib.crc32(begin)
        self._checksums = array("I") if size >= LARGE else None
        self._file = (folder / f"{name}.safetensors").open("wb")
        self._file.write(begin)

    def add(self, images: Iterable[Buffer], data: Buffer, statistics: Callable[[], None]) -> None:
        """Write the next images (`data`); meanwhile, in other threads, digest them and call `statistics`."""

        def checksums() -> None:
            if self._checksums is not None:
                self._checksums.extend(zlib.crc32(image) for image in images)

        jobs: list[Callable[[], Any]] = [
            lambda: self._file.write(data),
            lambda: self._sha256.update(data),
            lambda: self.content.update(data),
            statistics,
            checksums,
        ]
        for _ in self.pool.map(lambda job: job(), jobs):
            pass

    def close(self) -> None:
        self._file.close()

    def finish(self) -> dict[str, str]:
        """Flush the split's files to disk; their names without .safetensors, and their sha256."""
        self.content.update(self._described)
        _flush(self._file)
        written = {self.name: self._sha256.hexdigest()}
        if self._checksums is not None:
            name = self.name + CHECKSUMS
            checksums = np.array(self._checksums, np.uint32)
            content = save({"images": checksums, "begin": np.array([self._begin_crc], np.uint32)})
            with (self.folder / f"{name}.safetensors").open("wb") as file:
                file.write(content)
                _flush(file)
            written[name] = hashlib.sha256(content).hexdigest()
        return written


def array_writer(
    folder: Path, name: str, labels: Labels, image: tuple[int, int, int], pool: ThreadPoolExecutor
) -> SplitWriter:
    """For images of one shape: the header, the labels, then the pixels."""
    described = int64_bytes(labels)
    begin = header(len(labels), image) + described
    return SplitWriter(folder, name, labels, begin, described, len(labels) * math.prod(image), pool)


def int64_bytes(values: Labels) -> bytes:
    return np.ascontiguousarray(values, "<i8").tobytes()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fchmod(file.fileno(), 0o644)
    os.fsync(file.fileno())


@contextmanager
def temporary_folder(target: Path, needed: int) -> Iterator[Path]:
    """A temporary folder inside `target`, on a disk with at least `needed` bytes free.

    Folders that were created for it are removed again if they stay empty. Raises `BadData`.
    """
    files.require_writable(target)
    created = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        files.clear_drafts(target, ".prepare-")  # may free some space
        free = shutil.disk_usage(created[-1].parent if created else target).free
        if needed > free:
            raise BadData(
                f"{target}: the prepared data need {needed:,} bytes, the disk has {free:,} free; "
                "free some space, or lower data.size or data.train_images"
            )
        target.mkdir(parents=True, exist_ok=True)
        with files.draft_folder(target, ".prepare-") as folder:
            yield folder
    except OSError as error:
        raise BadData(f"{target}: the prepared data cannot be written ({error})") from error
    finally:
        for folder in created:
            with suppress(OSError):  # not empty
                folder.rmdir()


def publish(folder: Path, target: Path, meta: Meta) -> None:
    """Move the written splits from `folder` to `target`, and write data.json last.

    If the process is killed in between, data.json does not match the files: `load` reports that, and the next
    `cdkd prepare` repairs it.
    """
    for name in meta.files:
        os.replace(folder / f"{name}.safetensors", target / f"{name}.safetensors")
    files.write_atomically(target / FILE, meta.to_json())
    for name in SPLITS:
        if name + CHECKSUMS not in meta.files:
            (target / f"{name}{CHECKSUMS}.safetensors").unlink(missing_ok=True)  # of an earlier, larger set


def finished(
    name: str,
    source: Source,
    image: tuple[int, int, int],
    writers: Mapping[str, SplitWriter],
    counts: NDArray[np.int64],
    overlap: int,
    normalisation: Normalisation,
    uncropped: bool = False,
) -> Meta:
    """Finish all splits, and describe them. counts: of pixel values in training, [C, 256]."""
    classes = source.classes
    mean, std = mean_and_std(counts, normalisation)
    written = {name: sha256 for writer in writers.values() for name, sha256 in writer.finish().items()}
    content = {split: writer.content.hexdigest() for split, writer in writers.items()}
    described = {"classes": classes, "image": image, "mean": mean, "std": std, "splits": content}
    per_class = {
        split: np.bincount(writer.labels, minlength=len(classes)).tolist()
        for split, writer in writers.items()
    }
    return Meta(
        source=name,
        classes=classes,
        image=image,
        counts={split: len(writer.labels) for split, writer in writers.items()},
        per_class={split: tuple(counts) for split, counts in per_class.items()},
        mean=mean,
        std=std,
        files=written,
        overlap=overlap,
        digest=digest({**described, "uncropped": True} if uncropped else described),
        uncropped=uncropped,
        unused=source.unused,
        notes=source.notes,
    )
