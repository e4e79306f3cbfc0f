"""The error analysis of a record: confusion matrix, calibration, agreement with the teacher."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdkd.report.history import finite
from cdkd.runs.record import Record

BINS = 15
MAX_LINE = 1_000_000  # characters of a line of counts


@dataclass(frozen=True)
class ErrorAnalysis:
    """Measured on the test split after the last epoch. Shares in percent.

    confusion: images by true class (rows) and predicted class (columns)
    count, confidence, right: for each bin of the largest probability its images, the sum of that probability,
        and how many images were classified correctly
    agreement, kl and the fields below them: None for a teacher, and where they were not measured
    """

    images: int
    confusion: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    agreement: float | None
    kl: float | None
    teacher_right_error: float | None  # the student's error on the images that the teacher gets right
    teacher_wrong_error: float | None  # and on those it gets wrong
    same_mistake: (
        float | None
    )  # of the images that the teacher gets wrong: where the student predicts the same

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence| over bins, weighted by images."""
        return float(100 * np.abs(self.right - self.confidence).sum() / self.images)

    @property
    def class_errors(self) -> np.ndarray:
        """Of each true class; NaN for a class without test images."""
        totals = self.confusion.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(100 * (totals - self.confusion.diagonal()) / totals)


def error_analysis(record: Record) -> ErrorAnalysis | None:
    """None where the record lacks it. Raises ValueError where the counts contradict each other."""
    part = record.result.get("examined") if isinstance(record.result, dict) else None
    if part is None:
        return None
    try:
        return _parse(part)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _parse(part: Mapping[str, Any]) -> ErrorAnalysis:
    images = part["images"]
    confusion = _counts(part["confusion"])
    bins = {
        key: np.array(part["reliability"][key], dtype=np.float64) for key in ("count", "confidence", "right")
    }
    if (
        confusion.ndim != 2
        or confusion.shape[0] != confusion.shape[1]
        or confusion.min() < 0
        or confusion.sum() != images
        or images < 1
    ):
        raise ValueError("the confusion counts do not add up")
    if (
        any(values.shape != (BINS,) or not np.isfinite(values).all() for values in bins.values())
        or bins["count"].sum() != images
    ):
        raise ValueError("the reliability bins do not add up")
    return ErrorAnalysis(
        images=images,
        confusion=confusion.astype(
            np.uint16 if confusion.max() < 2**16 else np.int64
        ),  # a quarter of the memory
        **bins,
        agreement=finite(part.get("agreement")),
        kl=finite(part.get("kl")),
        teacher_right_error=_share(part.get("teacher_right"), "errors"),
        teacher_wrong_error=_share(part.get("teacher_wrong"), "errors"),
        same_mistake=_share(part.get("teacher_wrong"), "same_mistake"),
    )


def _counts(lines: Sequence[str]) -> np.ndarray:
    """A line for each true class, a number for each predicted class; numpy parses them fastest."""
    if not lines or any(len(line) > MAX_LINE or line.count(" ") != len(lines) - 1 for line in lines):
        raise ValueError("the confusion counts are not square")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.fromstring(" ".join(lines), dtype=np.int64, sep=" ").reshape(len(lines), len(lines))
        except DeprecationWarning as error:
            raise ValueError(f"the confusion counts are not numbers ({error})") from None


def _share(part: Any, key: str) -> float | None:
    if part is None or not part["images"]:
        return None
    share = 100 * part[key] / part["images"]
    if not 0 <= share <= 100:
        raise ValueError(f"{key} is not a share of the images")
    return float(share)
