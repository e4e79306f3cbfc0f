"""Methods over several pairs of networks: interquartile mean and ranks, with stratified bootstrap intervals.

As in rliable (Agarwal et al. 2021, arXiv 2108.13264), where a pair is a task and a seed is a run:

* Score of a run: the share of the gap between the student alone and the teacher that it closes,
  (E_student − E) / (E_student − E_teacher), with mean errors for the two; 0 is the student alone, 1 the
  teacher. It makes pairs with large and small errors comparable.
* Interquartile mean (IQM): the mean of the middle half of a method's scores, over all pairs and seeds.
* Rank in a pair: by the mean error over seeds, 1 the lowest; equal errors share their mean rank. The mean
  rank is over the pairs.
* Interval: percentiles of resamples that draw the seeds of each method with replacement within each pair. It
  generalises over seeds, with these pairs and teachers; of two or three seeds it is too short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdkd.report.collect import TEACHER
from cdkd.report.document import Column, Grid
from cdkd.report.method_names import paper_names
from cdkd.report.statistics import LEVEL
from cdkd.report.summary import Row
from cdkd.report.wording import decimals, join_names, plural

STUDENT = "student"
RESAMPLES = 10_000
CAPTION = (
    "Over all pairs in which the student alone has more errors than the teacher. Gap closed: the share of "
    "the difference between the student alone and the teacher that a method makes up; 0 % is the student "
    "alone, 100 % the teacher. IQM: mean of the middle half of all seeds and pairs. Rank: by the mean error "
    "in a pair, 1 the lowest, mean over pairs. Intervals: 95 %, stratified bootstrap over seeds, with these "
    "pairs and teachers; of two or three seeds they are too short."
)

Errors = Sequence[Mapping[str, np.ndarray]]  # of each pair: method -> errors of its seeds


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Aggregate:
    """iqm, rank: of each method; pairs: those that count; left_out: pairs without a gap to close"""

    iqm: Mapping[str, Estimate]
    rank: Mapping[str, Estimate]
    pairs: tuple[str, ...]
    left_out: tuple[str, ...]


def iqm(scores: np.ndarray) -> np.ndarray:
    """Mean without the lowest and the highest quarter, along the last axis.

    [..., N] to [...]. As scipy.stats.trim_mean: floor(N/4) values are cut at each end.
    """
    cut = scores.shape[-1] // 4
    kept: np.ndarray = np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut]
    return np.asarray(kept.mean(-1))


def ranks(errors: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, 1 the lowest; equal values share their mean rank. [..., M] to [..., M]"""
    below = (errors[..., None, :] < errors[..., :, None]).sum(-1)
    equal = (errors[..., None, :] == errors[..., :, None]).sum(-1)
    return np.asarray(below + (equal + 1) / 2)


def aggregate(titles: Sequence[str], columns: Sequence[Mapping[str, Row]]) -> Aggregate | None:
    """Of the methods that all pairs have.

    None below two pairs or two methods besides the student alone.
    """
    gaps = [_gap(column) for column in columns]
    counted = [(title, one) for title, one, gap in zip(titles, columns, gaps, strict=True) if gap]
    left = tuple(title for title, gap in zip(titles, gaps, strict=True) if gap is False)
    methods = [
        name
        for name in (counted[0][1] if counted else ())
        if name != TEACHER and all(name in one and one[name].errors for _, one in counted)
    ]
    if len(counted) < 2 or len(methods) < 3:
        return None
    errors = [{name: np.array(list(one[name].errors.values())) for name in methods} for _, one in counted]
    teachers = np.array([one[TEACHER].top1.mean for _, one in counted])
    scores, places = estimates(methods, errors, teachers)
    return Aggregate(scores, places, tuple(title for title, _ in counted), left)


def _gap(column: Mapping[str, Row]) -> bool | None:
    """Whether the student alone has more errors than the teacher; None where one of them has no result."""
    student, teacher = (column[name].top1.mean if name in column else None for name in (STUDENT, TEACHER))
    return None if student is None or teacher is None else student > teacher


def estimates(
    methods: Sequence[str], errors: Errors, teachers: np.ndarray, resamples: int = RESAMPLES
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """IQM of the gap closed, and mean rank, of each method; teachers: the error of each pair's teacher [P]"""
    draw = np.random.default_rng(0)
    found = _statistics(methods, errors, teachers, None, 1)
    drawn = _statistics(methods, errors, teachers, draw, resamples)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    made: list[dict[str, Estimate]] = []
    for value, samples in zip(found, drawn, strict=True):
        low, high = np.quantile(samples, tails, axis=0)
        made.append(
            {
                name: Estimate(float(value[0, place]), float(low[place]), float(high[place]))
                for place, name in enumerate(methods)
            }
        )
    return made[0], made[1]


def _statistics(
    methods: Sequence[str],
    errors: Errors,
    teachers: np.ndarray,
    draw: np.random.Generator | None,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """IQM and mean rank of each method in each resample, both [count, M].

    draw: None: of the runs as they are. The student alone is drawn like every method, and so is the gap.
    """
    scores: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    places = np.zeros((count, len(methods)))
    for pair, teacher in zip(errors, teachers, strict=True):
        runs = {name: _resampled(pair[name], draw, count) for name in methods}
        student = runs[STUDENT].mean(1, keepdims=True)
        gap = np.where(student > teacher, student - teacher, np.nan)  # a resample may have none
        for name in methods:
            scores[name].append((student - runs[name]) / gap)
        places += ranks(np.stack([runs[name].mean(1) for name in methods], 1)) / len(errors)
    return np.stack([_iqm_of(np.concatenate(scores[name], 1)) for name in methods], 1), places


def _iqm_of(scores: np.ndarray) -> np.ndarray:
    """In a resample without a gap, which is rare, the IQM is that of the median resample."""
    found = iqm(scores)
    return np.where(np.isnan(found), np.nanmedian(found), found)


def _resampled(runs: np.ndarray, draw: np.random.Generator | None, count: int) -> np.ndarray:
    """[S] to [count, S]"""
    if draw is None:
        return np.broadcast_to(runs, (count, len(runs)))
    return np.asarray(runs[draw.integers(len(runs), size=(count, len(runs)))])


def quantities(found: Aggregate) -> list[dict[str, Any]]:
    """For the CSV file: a line for each method, in the order of the mean ranks."""
    return [
        {"method": name}
        | {f"gap_closed_iqm{end}": value for end, value in _parts(found.iqm[name])}
        | {f"mean_rank{end}": value for end, value in _parts(found.rank[name])}
        | {"pairs": len(found.pairs)}
        for name in ordered(found)
    ]


def grid(found: Aggregate) -> Grid:
    titles = paper_names(ordered(found))
    columns = [Column("Method", words=True)]
    columns += [
        Column("Gap closed, IQM (%)"),
        Column("95 % interval"),
        Column("Mean rank"),
        Column("95 % interval"),
    ]
    lines = []
    for name in ordered(found):
        score, rank = found.iqm[name], found.rank[name]
        ends = [f"{decimals(100 * one, 0)}" for one in (score.value, score.low, score.high)]
        places = [decimals(one, 1) for one in (rank.value, rank.low, rank.high)]
        lines.append(
            [titles[name], ends[0], f"{ends[1]} to {ends[2]}", places[0], f"{places[1]} to {places[2]}"]
        )
    left = (
        f" Left out, as the student alone has no more errors than the teacher: {join_names(found.left_out)}."
    )
    caption = f"Pairs: {join_names(found.pairs)}. {CAPTION}{left * bool(found.left_out)}"
    return Grid.of("aggregate", f"Over {plural(len(found.pairs), 'pair')}", caption, columns, lines)


def console(found: Aggregate) -> list[str]:
    """Aligned lines for a terminal; methods have their names of params.yaml."""
    shown = grid(found)
    lines = [[column.title for column in shown.columns]]
    lines += [
        [name, *(cell.text for cell in row[1:])] for name, row in zip(ordered(found), shown.rows, strict=True)
    ]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ] + ["", shown.caption]


def ordered(found: Aggregate) -> list[str]:
    return sorted(found.rank, key=lambda name: (found.rank[name].value, -found.iqm[name].value))


def _parts(estimate: Estimate) -> tuple[tuple[str, float], ...]:
    return ("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)
