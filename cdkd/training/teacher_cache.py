"""A disk cache of the teacher's outputs: computed once for each view of an image, for all runs and trials."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.digest import digest
from cdkd.core.features import Features
from cdkd.storage.rows_file import RowsFile

log = logging.getLogger(__name__)

Answer = Callable[[Tensor], Features]  # images [B, C, H, W] to features whose maps are 1x1


class TeacherCache:
    """A table with a row for each (image, view): logits, pooled, channel means (float32), and a checksum.

    A row is used only if its checksum fits its content and position. For a hole, a half-written or damaged
    row, or a row that another process is writing, the teacher is computed again. The file is sparse: only
    rows that were written take space.

    The teacher's output for an image must not depend on the rest of the batch, to the bit. This is tested
    when a cache is opened; if it fails (`exact` is False), nothing is cached.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        images: int,
        views: int,
        gigabytes: float,
        answer: Answer,
        sample: Tensor,
    ) -> None:
        """key: everything that affects an output; sample: two images [B, C, H, W] or more, best a batch"""
        self.views, self.hits, self.asked = views, 0, 0
        self.exact = _independent_of_batch(answer, sample)
        found = answer(sample)
        self.widths = [found.logits.shape[1], found.pooled.shape[1], *(one.shape[1] for one in found.maps)]
        width = sum(self.widths)
        self.slots = min(
            images * views, int(gigabytes * 1e9) // (4 * (width + 2))
        )  # if the disk space is not enough for all images: the first ones
        # odd factors: any one changed bit changes the sum
        self._factors = numpy.random.default_rng(0).integers(
            0, 2**63, width, dtype=numpy.uint64
        ) * numpy.uint64(2) + numpy.uint64(1)
        self.path = folder / f"{digest(dict(key))[:32]}.rows"
        self._rows: RowsFile | None = None
        if self.slots > 0 and self.exact:
            try:
                self._rows = RowsFile(self.path, width + 2)
            except OSError as error:
                self._stop_keeping(error)

    def __call__(self, batch: Batch, answer: Answer) -> Features:
        """The features of a batch: valid rows of the table, otherwise the teacher's output."""
        if self._rows is None or batch.crops is None:
            return answer(batch.images)
        places = (batch.indices * self.views + batch.crops).numpy()
        kept = places < self.slots
        rows = self._rows.read(numpy.where(kept, places, 0))
        known = kept & (rows[:, -2:].copy().view(numpy.uint64)[:, 0] == self._checksums(rows[:, :-2], places))
        missing = numpy.flatnonzero(~known)
        self.hits, self.asked = self.hits + int(known.sum()), self.asked + len(known)
        if len(missing) > 0:
            rest = batch.images[torch.from_numpy(missing)].contiguous(memory_format=torch.channels_last)
            maps, pooled, logits, *_ = answer(rest)
            fresh = (
                torch.cat([logits.float(), pooled.float(), *(one.flatten(1) for one in maps)], 1)
                .numpy()
                .view(numpy.int32)
            )
            rows[missing, :-2] = fresh
            rows[missing, -2:] = self._checksums(fresh, places[missing])[:, None].view(numpy.int32)
            to_keep = missing[kept[missing]]
            try:
                self._rows.write(places[to_keep], rows[to_keep])
            except OSError as error:
                self._stop_keeping(error)
        logits, pooled, *means = torch.split(
            torch.from_numpy(rows[:, :-2].view(numpy.float32)), self.widths, dim=1
        )
        return Features(
            tuple(mean.contiguous()[:, :, None, None] for mean in means),
            pooled.contiguous(),
            logits.contiguous(),
        )

    def _stop_keeping(self, error: OSError) -> None:
        """From now on the teacher computes everything.

        On a full disk the cache is cleared: checkpoints need the space more.
        """
        if self._rows is not None:
            self._rows.clear()
        self._rows = None
        log.warning(
            "%s: the teacher's answers cannot be kept (%s); training continues without them",
            self.path,
            error.strerror,
        )

    def _checksums(self, rows: NDArray[numpy.int32], places: NDArray[numpy.int64]) -> NDArray[numpy.uint64]:
        content: NDArray[numpy.uint64] = (rows.view(numpy.uint32).astype(numpy.uint64) * self._factors).sum(
            1, dtype=numpy.uint64
        )
        content += (places.astype(numpy.uint64) * numpy.uint64(2) + numpy.uint64(1)) * numpy.uint64(
            0x9E3779B97F4A7C15
        )  # an empty row does not fit
        return content


def _independent_of_batch(answer: Answer, sample: Tensor) -> bool:
    """Whether images get the same bits in reversed order and in half batches."""

    def table(images: Tensor) -> Tensor:
        maps, pooled, logits, *_ = answer(images.contiguous(memory_format=torch.channels_last))
        return torch.cat([logits.float(), pooled.float(), *(one.flatten(1) for one in maps)], 1)

    whole, half = table(sample), len(sample) // 2
    return torch.equal(table(sample.flip(0)).flip(0), whole) and torch.equal(
        torch.cat([table(sample[:half]), table(sample[half:])]), whole
    )
