"""Results that cross two sources of chance, each value in one row and one column: seeds × images, or teachers
× seeds.

Model: value = mean + row's effect + column's effect + rest, all three random (two-way random effects without
replication). Estimates are by expected mean squares (analysis of variance). An interval over one source holds
the other fixed; an interval over both has the degrees of freedom of Satterthwaite (1946). A bootstrap that
draws rows and columns has too short intervals for few rows: with three rows it covered the mean in less than
85 % of the simulations of `tests/unit/test_crossed.py`, where this covered it in 93 % or more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from cdkd.report.statistics import LEVEL

Over = Literal["rows", "columns", "both"]


@dataclass(frozen=True)
class Interval:
    """Of a mean, at `LEVEL`; p: two-sided, of the hypothesis that the mean is 0; freedom: of Student's t."""

    low: float
    high: float
    p: float
    freedom: float


class Crossed:
    """A table of R × C values, with C at least 2. With one row, only the columns can vary.

    mean: of all values
    rows, columns, rest: estimated variances; an estimate below 0 counts as 0
    """

    def __init__(self, table: np.ndarray) -> None:
        values = np.asarray(table, dtype=np.float64)
        if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
            raise ValueError(f"a table of shape {values.shape}; expected one row and two columns or more")
        count, width = values.shape
        self.shape = (int(count), int(width))
        self.mean = float(values.mean())
        row, column = values.mean(1) - self.mean, values.mean(0) - self.mean
        rest = values - self.mean - row[:, None] - column
        self.row_square = float(width * (row @ row) / max(1, count - 1))
        self.column_square = float(count * (column @ column) / (width - 1))
        self.rest_square = float((rest * rest).sum() / (max(1, count - 1) * (width - 1)))

    @cached_property
    def rows(self) -> float:
        return max(0.0, (self.row_square - self.rest_square) / self.shape[1])

    @cached_property
    def columns(self) -> float:
        return max(0.0, (self.column_square - self.rest_square) / self.shape[0])

    @property
    def rest(self) -> float:
        return self.rest_square

    def interval(self, over: Over) -> Interval | None:
        """Of the mean; None where nothing varies, as equal values do not prove certainty, and for rows where
        there is one.

        over: what other values could have been drawn: other rows with these columns, other columns with these
            rows, or both
        """
        from scipy.special import stdtr, stdtrit

        if over != "columns" and self.shape[0] < 2:
            return None
        square, freedom = self._square(over)
        error = math.sqrt(max(0.0, square) / (self.shape[0] * self.shape[1]))
        if error < 1e-12:
            return None
        half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
        p = float(2 * stdtr(freedom, -abs(self.mean) / error))
        found = Interval(self.mean - half, self.mean + half, p, freedom)
        if over != "both":
            return found
        # What holds for more must not look more certain: the approximate freedom can make it so.
        single = [one for one in (self.interval("rows"), self.interval("columns")) if one is not None]
        return max((found, *single), key=lambda one: one.high - one.low)

    def _square(self, over: Over) -> tuple[float, float]:
        """Variance of the mean times the number of values, and its degrees of freedom."""
        by_row, by_column = self.shape[0] - 1, self.shape[1] - 1
        if over == "rows":
            return self.row_square, by_row
        if over == "columns":
            return self.column_square, by_column
        square = self.row_square + self.column_square - self.rest_square
        larger = max((self.row_square, by_row), (self.column_square, by_column))
        if square <= larger[0]:  # the other source adds nothing that is above the rest
            return larger
        parts = (
            self.row_square**2 / by_row,
            self.column_square**2 / by_column,
            self.rest_square**2 / (by_row * by_column),
        )
        return square, square**2 / sum(parts)


def mcnemar(first_wrong: np.ndarray, second_wrong: np.ndarray) -> float:
    """McNemar's exact test of two networks on the same images: the two-sided p value.

    Images that both classify rightly or both wrongly say nothing; of the others, each network is wrong on
    half, if the two are equally good. first_wrong, second_wrong: bool [N]
    """
    from scipy.special import bdtr

    first = int((first_wrong & ~second_wrong).sum())
    second = int((second_wrong & ~first_wrong).sum())
    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5))) if first + second else 1.0
