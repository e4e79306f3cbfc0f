"""Numbers in words: how every figure of the report is written."""

from __future__ import annotations

from collections.abc import Sequence

from cdkd.report.document import NONE
from cdkd.report.statistics import MOST, Paired, Summary

SETTLED = {"lower": "fewer errors than {base}", "higher": "more errors than {base}"}
UNSETTLED = {
    "none": NONE,
    "one": "one seed: nothing to say",
    "flat": "the same difference in every seed: no test",
}


def shown(
    summary: Summary, n: int | None = None, *, sign: bool = False, spread: bool = True, digits: int = 2
) -> str:
    """ "6.12 ± 0.20"; with its own n where that is not the row's."""
    if summary.mean is None:
        return NONE
    text = fixed(summary.mean, digits, sign=sign)
    text += f" ± {summary.std:.{digits}f}" if spread and summary.std is not None else ""
    return text if n is None or summary.n == n else f"{text} (n = {summary.n})"


def fixed(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    if value is None:
        return NONE
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    zero = f"{0:.{digits}f}"
    return zero if text.lstrip("+-") == zero else text.replace("-", "−")


def interval(summary: Summary, *, sign: bool = False) -> str:
    """ "5.93 to 9.87", or why there is none."""
    if summary.low is not None and summary.high is not None:
        return f"{fixed(summary.low, sign=sign)} to {fixed(summary.high, sign=sign)}"
    return NONE if summary.mean is None else "one seed: none" if summary.n < 2 else "no spread: none"


def probability(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(paired: Paired, base: str) -> str:
    """What the differences to a baseline say, and what would settle it where they do not."""
    if paired.verdict in SETTLED:
        return SETTLED[paired.verdict].format(base=base)
    if paired.verdict in UNSETTLED:
        return UNSETTLED[paired.verdict]
    return (
        "undecided"
        + (" after correction (its own interval excludes 0)" if paired.suggestive else "")
        + f"; {further(paired)}"
    )


def further(paired: Paired) -> str:
    if not paired.mean:
        return "no difference seen"
    if paired.further is None:
        return f"more than {MOST:,} seeds would be needed"
    return f"about {paired.further} further seed{'s' * (paired.further != 1)}"


def si(value: float | None) -> str:
    """Three digits and a unit: 1.23 M."""
    if value is None:
        return NONE
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            digits = value / size
            return f"{digits:.{2 if digits < 10 else 1 if digits < 100 else 0}f} {unit}"
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
