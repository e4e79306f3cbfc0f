"""The history of a run as columns of numbers, which take a twentieth of the memory of nested dictionaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from operator import itemgetter
from typing import Any

import numpy as np


class History:
    """One array a quantity, one element an epoch; NaN where an epoch has no finite number.

    A nested quantity has a path: ("losses", "kd"), ("weights", "kd"), ("alignment", "0").
    """

    def __init__(self, rows: Sequence[Any] = ()) -> None:
        lines = [row if isinstance(row, dict) else {} for row in rows]
        self.epochs = len(lines)
        self.columns: dict[tuple[str, ...], np.ndarray] = {}
        for key in dict.fromkeys(chain.from_iterable(lines)):
            values = _values(lines, key)
            kinds = set(map(type, values))
            if dict in kinds:
                self._nested(key, [value if type(value) is dict else {} for value in values])
            elif list in kinds:
                columns = zip_longest(*(value if type(value) is list else () for value in values))
                self.columns |= {(key, str(index)): _numbers(column) for index, column in enumerate(columns)}
            else:
                self.columns[(key,)] = _numbers(values)

    def __len__(self) -> int:
        return self.epochs

    def column(self, *path: str) -> np.ndarray:
        """NaN throughout for a quantity that the run does not have."""
        found = self.columns.get(path)
        return np.full(self.epochs, math.nan) if found is None else found

    def names(self, key: str) -> list[str]:
        """What a nested quantity consists of: the losses of `losses`."""
        return [path[1] for path in self.columns if len(path) == 2 and path[0] == key]

    def _nested(self, key: str, values: Sequence[Mapping[str, Any]]) -> None:
        for name in dict.fromkeys(chain.from_iterable(values)):
            self.columns[key, name] = _numbers(_values(values, name))


def _values(lines: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    try:
        return list(map(itemgetter(key), lines))
    except KeyError:  # not in every epoch
        return [line.get(key) for line in lines]


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """In single precision, which is enough for figures."""
    if not set(map(type, values)) <= {int, float}:
        values = [value if type(value) in (int, float) else math.nan for value in values]
    try:
        with np.errstate(over="ignore"):
            column = np.array(values, dtype=np.float64).astype(np.float32)
    except OverflowError:  # an integer too large for a float
        return np.full(len(values), math.nan)
    column[~np.isfinite(column)] = math.nan
    return column


def finite(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
