"""Numbers as text: how every number of the report is written."""

from __future__ import annotations

from collections.abc import Sequence

from cdkd.report.document import NONE
from cdkd.report.statistics import MAX_SEEDS, Paired, Summary

SIGNIFICANT = {
    "lower": "significantly fewer errors than {base}",
    "higher": "significantly more errors than {base}",
}
NO_TEST = {
    "none": NONE,
    "one_seed": "one seed: no test possible",
    "one_teacher": "runs of one teacher: no test possible",
    "no_spread": "the same difference for every seed: no test possible",
}
LONE = {"one_seed": "one seed", "one_teacher": "one teacher"}


def mean_std(
    summary: Summary, n: int | None = None, *, sign: bool = False, spread: bool = True, digits: int = 2
) -> str:
    """ "6.12 ± 0.20"; with its number of seeds where that differs from n."""
    if summary.mean is None:
        return NONE
    text = decimals(summary.mean, digits, sign=sign)
    text += f" ± {summary.std:.{digits}f}" if spread and summary.std is not None else ""
    return text if n is None or summary.n == n else f"{text} (n = {summary.n})"


def decimals(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    if value is None:
        return NONE
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    zero = f"{0:.{digits}f}"
    return zero if text.lstrip("+-") == zero else text.replace("-", "−")


def interval_text(summary: Summary, *, sign: bool = False) -> str:
    """ "5.93 to 9.87", or why there is none."""
    if summary.low is not None and summary.high is not None:
        return f"{decimals(summary.low, sign=sign)} to {decimals(summary.high, sign=sign)}"
    return NONE if summary.mean is None else f"none ({LONE.get(summary.lone, 'no spread')})"


def p_value(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(paired: Paired, base: str) -> str:
    """The result of a comparison with a baseline; where it is undecided, how many more seeds are needed."""
    if paired.verdict in SIGNIFICANT:
        return SIGNIFICANT[paired.verdict].format(base=base)
    if paired.verdict in NO_TEST:
        return NO_TEST[paired.verdict]
    alone = " after correction (significant if it were the only comparison)" * paired.suggestive
    return f"undecided{alone}; {further_text(paired)}" if paired.estimated else f"undecided{alone}"


def further_text(paired: Paired) -> str:
    """How many seeds would be needed: an estimate from few seeds, so in round numbers."""
    if not paired.mean:
        return "no difference observed"
    n = paired.further_seeds
    if n is None:
        return f"more than {MAX_SEEDS:,} seeds needed"
    if n <= 10:
        return f"about {n} more seed{'s' * (n != 1)} needed"
    if n < 95:
        return f"some {round(n, -1)} more seeds needed"
    return "a hundred or more further seeds needed" if n < 150 else "some hundreds of further seeds needed"


def si_prefix(value: float | None) -> str:
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


def join_names(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def plural(count: int, noun: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{count} {noun}{'s' * (count != 1)}"
