"""The section `seeds` of params.yaml: a list, or a rule that adds seeds until planned comparisons decide."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from cdkd.config.faults import Faults, show, suggest
from cdkd.config.schema import MAX_LISTED, MAX_SEED, Section

MAX_SEEDS = 100  # that a rule may add up to

Pair = Annotated[tuple[str, str], Strict(False)]


class SeedsRule(Section):
    """Seeds are added until every planned comparison is decided: a difference, or equivalence.

    All methods are trained with seeds 0, 1, ... up to `at_least`. Then the comparisons are looked at, and
    while one of them is undecided `step` more seeds are trained and looked at, up to `at_most`.

    at_least: seeds before the first look at the comparisons
    at_most: seeds after which no more are added
    step: seeds that are added where a comparison is undecided
    until: decided, the only rule
    comparisons: pairs [method, other], in top-1 error at the last epoch of the test split, paired by seed
    level: chance of one wrong statement or more, over all comparisons and looks
    equivalence: points of error; a difference whose interval lies within plus or minus this counts as none
    """

    at_least: Annotated[int, Field(ge=2, le=MAX_SEEDS)]
    at_most: Annotated[int, Field(ge=2, le=MAX_SEEDS)]
    step: Annotated[int, Field(ge=1, le=MAX_SEEDS)] = 2
    until: Literal["decided"]
    comparisons: Annotated[tuple[Pair, ...], Strict(False), Field(min_length=1, max_length=20)]
    level: Annotated[float, Field(ge=0.0001, le=0.2)] = 0.05
    equivalence: Annotated[float, Field(gt=0, le=100)]

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds at which the comparisons are looked at."""
        return (*range(self.at_least, self.at_most, self.step), self.at_most)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that are compared."""
        return tuple(dict.fromkeys(name for pair in self.comparisons for name in pair))


def seeds_of(
    value: Any, methods: list[str] | None, faults: Faults
) -> tuple[tuple[int, ...], SeedsRule | None]:
    """The seeds, of a rule those up to `at_most`; and the rule, where there is one.

    methods: that may be compared; None where they are not known
    """
    if isinstance(value, dict):
        rule: SeedsRule | None = faults.section(SeedsRule, value, ("seeds",))
        _check_comparisons(value.get("comparisons"), methods, faults)
        least, most = value.get("at_least"), value.get("at_most")
        if isinstance(least, int) and isinstance(most, int) and most < least:
            faults.add(("seeds", "at_most"), f"{most}; expected at least at_least, {least}")
        return (() if rule is None else tuple(range(rule.at_most))), rule
    return _listed(value, faults), None


def _check_comparisons(value: Any, methods: list[str] | None, faults: Faults) -> None:
    seen: set[frozenset[str]] = set()
    for index, pair in enumerate(value if isinstance(value, list) else ()):
        place = ("seeds", "comparisons", index)
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            continue  # the section's own faults
        for side, name in enumerate(pair):
            if methods is not None and name not in methods:
                known = f"{suggest(name, methods)}; expected one of {', '.join(methods)}"
                what = f"no method {show(name)}{known}"
                faults.add((*place, side), what)
        if pair[0] == pair[1]:
            faults.add(place, f"{show(pair)}; expected two different methods")
        elif frozenset(pair) in seen:
            faults.add(place, f"{show(pair)} again; expected each comparison once")
        seen.add(frozenset(pair))


def _listed(value: Any, faults: Faults) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        expected = "expected a list of whole numbers, such as [0, 1, 2], or a rule with at_least and at_most"
        faults.add(("seeds",), f"{show(value)}; {expected}")
        return ()
    if len(value) > MAX_LISTED:
        faults.add(("seeds",), f"{len(value)} seeds; expected at most {MAX_LISTED}")
        return ()
    for index, seed in enumerate(value):
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
            faults.add(("seeds", index), f"{show(seed)}; expected a whole number from 0 to 2**32 - 1")
        elif seed in value[:index]:
            faults.add(("seeds", index), f"{seed} again; expected each seed once")
    return tuple(value)
