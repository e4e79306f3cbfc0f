"""Published results from published.csv, and their comparison with ours."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cdkd.config.schema import Published
from cdkd.report.statistics import Summary
from cdkd.report.wording import LONE

TABLE = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Reference:
    """A published result. Errors in percent; the protocol in the words of published.csv."""

    top1_error: float
    top1_std: float | None
    top5_error: float | None
    protocol: str  # "last epoch", "authors run, single run, best epoch", ...
    source: str  # the repository or paper, in short

    @property
    def epoch(self) -> str:
        """Which epoch of ours it is compared with: best | last; last where the source does not say."""
        return "best" if "best epoch" in self.protocol else "last"


@dataclass(frozen=True)
class PublishedComparison:
    """Our mean minus the published value, and whether that value lies in the 95 % interval of our mean."""

    difference: float | None
    verdict: str


def compare_published(reference: Reference, last: Summary, best: Summary) -> PublishedComparison:
    """Our best epoch is compared with a best epoch, our last epoch with anything else."""
    ours = best if reference.epoch == "best" else last
    if ours.mean is None:
        return PublishedComparison(None, "no result of ours")
    difference = ours.mean - reference.top1_error
    if ours.low is None or ours.high is None:
        return PublishedComparison(difference, f"no interval ({LONE.get(ours.lone, 'no spread')})")
    if ours.low <= reference.top1_error <= ours.high:
        return PublishedComparison(difference, "yes")
    return PublishedComparison(difference, f"no: ours is {'lower' if difference < 0 else 'higher'}")


@cache
def table() -> tuple[dict[str, str], ...]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def find(published: Published | None, method: str) -> Reference | None:
    """The published result for a method, or for "teacher": the preferred source's, else the first one.

    A method without an entry in `published.methods` is looked up under its own name.
    """
    if published is None:
        return None
    theirs = published.methods.get(method, method)
    pair = (published.dataset, published.teacher, published.student, theirs)
    rows = [row for row in table() if (row["dataset"], row["teacher"], row["student"], row["method"]) == pair]
    rows.sort(
        key=lambda row: not row["source"].startswith(published.source)
    )  # stable: otherwise the file's order
    main = next((row for row in rows if row["metric"] in ("top1_acc", "top1_err")), None)
    if main is None:
        return None
    others = {row["metric"]: float(row["value"]) for row in reversed(rows) if row["source"] == main["source"]}
    place, _, protocol = main["source"].partition("; ")
    return Reference(
        top1_error=_error(main["metric"], float(main["value"])),
        top1_std=others.get(f"{main['metric']}_std"),
        top5_error=next(
            (_error(metric, others[metric]) for metric in ("top5_acc", "top5_err") if metric in others), None
        ),
        protocol=protocol or "protocol not stated",
        source=place.partition("@")[0],
    )


def _error(metric: str, value: float) -> float:
    return round(100 - value, 6) if metric.endswith("_acc") else value
