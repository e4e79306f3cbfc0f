"""A table of rows in a file that needs disk space only for the rows that were written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy
from numpy.typing import NDArray


class RowsFile:
    """int32 [rows, width]. Other processes may read and write the same file.

    It is not mapped into memory: where the disk is full, a write into a mapped hole kills the process, and
    so does a read on tmpfs.
    """

    def __init__(self, path: Path, width: int) -> None:
        """Raises OSError where the file cannot be made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._file = path.open("r+b", buffering=0)
        self.width, self._bytes = width, 4 * width

    def read(self, places: NDArray[numpy.int64]) -> NDArray[numpy.int32]:
        """The rows with these numbers; zeros where nothing was written."""
        found = numpy.zeros((len(places), self.width), numpy.int32)
        for row, offset in self._rows(found, places):
            os.preadv(self._file.fileno(), [row], offset)
        return found

    def write(self, places: NDArray[numpy.int64], rows: NDArray[numpy.int32]) -> None:
        """Raises OSError where the disk is full; a row may be half-written then."""
        for row, offset in self._rows(numpy.ascontiguousarray(rows), places):
            done = os.pwrite(self._file.fileno(), row, offset)
            if done < self._bytes:  # the disk is full; the next write says so
                os.pwrite(self._file.fileno(), row[done:], offset + done)

    def clear(self) -> None:
        """Remove all rows and free their disk space."""
        os.ftruncate(self._file.fileno(), 0)

    def _rows(
        self, rows: NDArray[numpy.int32], places: NDArray[numpy.int64]
    ) -> Iterator[tuple[memoryview, int]]:
        content = rows.data.cast("B") if len(rows) else memoryview(b"")
        for number, place in enumerate(places.tolist()):
            yield content[number * self._bytes : (number + 1) * self._bytes], place * self._bytes
