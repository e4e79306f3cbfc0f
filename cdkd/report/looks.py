"""The looks of a rule that adds seeds, as sentences, as a table and for the CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cdkd.config.params import Params
from cdkd.config.seeds import SeedsRule
from cdkd.report.document import NONE, Cell, Column, Grid, Text
from cdkd.report.planned import Course, Look, course
from cdkd.report.sequential import each_look
from cdkd.report.summary import Row
from cdkd.report.wording import decimals, join_names, plural

WORDS = {
    "fewer": "fewer errors",
    "more": "more errors",
    "equivalent": "equivalent",
    "diverged": "a run diverged: no test",
    "no_spread": "every seed has the same difference: no test yet",
    "undecided": "undecided",
}


def looks_of(params: Params, rows: Mapping[str, Row]) -> Course | None:
    """The looks that the report's records give; None where params.yaml lists its seeds."""
    return None if params.rule is None else course(params.rule, errors_of(rows.values()))


def errors_of(rows: Iterable[Row]) -> dict[str, dict[int, float | None]]:
    return {
        row.name: {run.seed: row.errors.get(run.key) for run in row.runs if run.ok or run.state == "diverged"}
        for row in rows
    }


def sentences(rule: SeedsRule, found: Course, titles: Mapping[str, str]) -> list[str]:
    """What each comparison's last look found; titles: how a method is called."""
    return [
        _sentence(titles[method], titles[other], looks[-1], rule.equivalence)
        for (method, other), looks in found.looks.items()
        if looks
    ]


def _sentence(method: str, other: str, look: Look, margin: float) -> str:
    if look.mean is None:
        return f"{method} against {other}: a run diverged, so there is no decision."
    seeds = plural(look.seeds, "seed")
    numbers = f"{decimals(look.mean, sign=True)} points, repeated interval {_interval(look)}"
    if look.decision in ("fewer", "more"):
        return f"Decided after {seeds}: {method} makes {look.decision} errors than {other} ({numbers})."
    if look.decision == "equivalent":
        unit = "point" if margin == 1 else "points"
        what = f"{method} and {other} differ by less than {margin:g} {unit}"
        return f"Decided after {seeds}: {what} ({numbers})."
    return f"Undecided after {seeds}: {method} against {other} ({numbers})."


def _interval(look: Look) -> str:
    if look.low is None or look.high is None:
        return "none, as the seeds do not differ"
    return f"{decimals(look.low, sign=True)} to {decimals(look.high, sign=True)}"


def looks_table(rule: SeedsRule, found: Course, titles: Mapping[str, str]) -> Grid:
    """Every look: what was looked at when, the statistic, the boundary, and what was decided."""
    names = ("Seeds", "Δ (points)", "Repeated interval", "t", "Boundary of |t|")
    columns = [Column("Comparison", words=True), *map(Column, names), Column("Decision", words=True)]
    cells: list[list[str | Cell]] = [
        [
            f"{titles[method]} − {titles[other]}",
            str(look.seeds),
            decimals(look.mean, sign=True),
            _interval(look) if look.mean is not None else NONE,
            decimals(look.t, sign=True),
            decimals(look.bound),
            WORDS[look.decision],
        ]
        for (method, other), looks in found.looks.items()
        for look in looks
    ]
    return Grid.of("looks", "Planned comparisons", _caption(rule), columns, cells, "No look yet.")


def _caption(rule: SeedsRule) -> str:
    count = len(rule.comparisons)
    each = each_look(rule.looks, rule.level / count)
    return (
        f"Seeds were added until these comparisons were decided, looking after {_listed(rule.looks)} "
        "seeds; a decided comparison is not looked at again. "
        "Differences seed by seed, in points of top-1 error at the last epoch; "
        "negative means fewer errors. Repeated interval and boundary: Student's t, each look at level "
        f"{each:.2g}, so that the chance of one wrong decision or more in all looks"
        f"{' and comparisons' * (count > 1)} is at most {rule.level:g}. A difference: the interval leaves "
        f"out 0. Equivalent: it lies within ±{rule.equivalence:g} points. In the tables of differences to "
        "one method or between all, p values and intervals are corrected for the looks in the same way; the "
        "intervals of single methods and those over images are not."
    )


def _listed(looks: Sequence[int]) -> str:
    return join_names([str(look) for look in looks])


def lead(params: Params, rows: Mapping[str, Row]) -> tuple[Text, ...]:
    """A sentence for each planned comparison, for the report's first lines."""
    found = looks_of(params, rows)
    if found is None or params.rule is None:
        return ()
    said = sentences(params.rule, found, _titles(rows) | {"student": "the student alone"})
    return (Text(" ".join(said)),) if said else ()


def tables(params: Params, rows: Mapping[str, Row]) -> tuple[Grid, ...]:
    found = looks_of(params, rows)
    if found is None or params.rule is None:
        return ()
    return (looks_table(params.rule, found, _titles(rows)),)


def quantities(params: Params, rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    """For the CSV file."""
    found = looks_of(params, rows)
    return [
        {"method": method, "minus": other, **asdict(look)}
        for (method, other), looks in (found.looks.items() if found is not None else ())
        for look in looks
    ]


def paragraph(params: Params, rows: Mapping[str, Row]) -> str:
    """For a paper: how the number of seeds came about; nothing without a rule."""
    rule = params.rule
    if rule is None:
        return ""
    pairs = join_names([f"{rows[one].title} against {rows[other].title}" for one, other in rule.comparisons])
    planned = f"planned {'comparisons' if len(rule.comparisons) > 1 else 'comparison'} ({pairs})"
    return (
        f" The number of seeds was not fixed: from {rule.at_least} on, seeds were added until the {planned} "
        f"showed a difference or equivalence within {rule.equivalence:g} points, looking after "
        f"{_listed(rule.looks)} seeds. p values and intervals of differences are corrected for these looks "
        "(one level for all, after Pocock, for Student's t)."
    )


def _titles(rows: Mapping[str, Row]) -> dict[str, str]:
    return {name: row.title for name, row in rows.items()}
