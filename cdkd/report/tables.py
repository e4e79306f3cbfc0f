"""A table of methods: which rows and columns it has and what its cells say."""

from __future__ import annotations

from dataclasses import dataclass

from cdkd.report.collect import TEACHER
from cdkd.report.notes import faults
from cdkd.report.summary import BASELINES, Row, Summary

NONE = "–"
CAPTION = (
    "Errors in percent on the test split, mean ± sample standard deviation over n seeds; the last epoch is the headline, the best epoch is beside it. "
    "Δ: top-1 error at the last epoch minus that of the baseline, mean of the differences seed by seed; negative means fewer errors. "
    "Multiply-adds: of one image's forward pass. Images/s: training throughput as recorded."
)
PUBLISHED = " Published: top-1 error under the protocol of its source, which need not be ours."


@dataclass(frozen=True)
class Table:
    """Rows in order, the teacher's first, with their footnotes and the methods written out."""

    name: str  # ablation | comparison
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]

    @property
    def empty(self) -> bool:
        return all(run.state == "missing" for row in self.rows for run in row.runs)

    @property
    def caption(self) -> str:
        return CAPTION + (PUBLISHED if self._published else "")

    @property
    def _published(self) -> bool:
        return any(row.published for row in self.rows)

    @property
    def bases(self) -> tuple[str, ...]:
        return tuple(base for base in BASELINES if any(base in row.minus for row in self.rows))

    def header(self) -> list[str]:
        columns = [
            "Method",
            *(f"{error} (%)" for error in ("Top-1 error, last epoch", "Top-5 error, last epoch", "Top-1 error, best epoch")),
            *(f"Δ {base}" for base in self.bases),
        ]
        return [
            *columns,
            "Parameters",
            "Multiply-adds",
            "Images/s",
            *(("Published top-1 error (%)", "Published protocol and source") if self._published else ()),
        ]

    def cells(self, row: Row) -> list[str]:
        n = row.top1.n
        wrong = faults(row.runs)
        top1 = f"{shown(row.top1)} (n = {n})" if n else ""
        cells = [title(row), "; ".join(filter(None, (top1, wrong))), shown(row.top5, n), shown(Summary(row.best.mean, None, row.best.n), n)]
        cells += [shown(row.minus[base], n, sign=True, spread=False) if base in row.minus else NONE for base in self.bases]
        cells += [si(row.parameters), si(row.multiply_adds), f"{row.images_per_second:,.0f}" if row.images_per_second is not None else NONE]
        if self._published:
            there = row.published
            cells += [shown(Summary(there.top1_error, there.top1_std, 1)), f"{there.protocol}; {there.source}"] if there else [NONE, NONE]
        return cells


def title(row: Row) -> str:
    return f"{TEACHER} ({row.network})" if row.name == TEACHER else row.name


def shown(summary: Summary, n: int | None = None, *, sign: bool = False, spread: bool = True) -> str:
    """ "6.12 ± 0.20"; with its own n where that is not the row's."""
    if summary.mean is None:
        return NONE
    text = f"{summary.mean:{'+' if sign else ''}.2f}".replace("-", "−")
    text += f" ± {summary.std:.2f}" if spread and summary.std is not None else ""
    return text if n is None or summary.n == n else f"{text} (n = {summary.n})"


def si(value: int | None) -> str:
    """Three digits and a unit: 1.23 M."""
    if value is None:
        return NONE
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            digits = value / size
            return f"{digits:.{2 if digits < 10 else 1 if digits < 100 else 0}f} {unit}"
    return str(value)
