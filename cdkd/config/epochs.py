"""Epochs in params.yaml: whole numbers, or shares of the training that become whole numbers here.

A share is a number with a decimal point, more than 0 and less than 1: 0.5 is half of the epochs. It becomes
the epoch floor(share * epochs + 1/2), computed exactly from the decimals as written: a half is rounded up.
However short the training is, every part of a method keeps its meaning: a start is at most the last epoch, a
stop comes at least one epoch after the start, `over` and `rise` last at least one epoch, and a milestone that
is rounded to the end of the training is left out. Milestones that are rounded to the same epoch all count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from cdkd.config.faults import Faults, Place

FIELDS = ("start", "stop", "over", "rise")  # of a term, in the order in which they are resolved
MILESTONES = "milestones"
MAX_EPOCHS = 100_000


def is_share(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1


def position(value: Any, epochs: int) -> Fraction:
    """The place of an epoch or a share on the scale of epochs."""
    return Fraction(repr(value)) * (epochs if is_share(value) else 1)


def rounded(value: float | int, epochs: int) -> int:
    return math.floor(position(value, epochs) + Fraction(1, 2))


def resolved(field: str, value: Any, epochs: int, start: Any = 0) -> Any:
    """The epoch of a field of a term: a share becomes a whole epoch, any other value stays."""
    if field == MILESTONES:
        return resolved_milestones(value, epochs)
    if field not in FIELDS or not is_share(value):
        return value
    epoch = rounded(value, epochs)
    if field == "start":
        return min(epoch, epochs - 1)
    if field == "stop":
        return max(epoch, start + 1 if _is_whole(start) else 1)
    return max(epoch, 1)


def resolved_milestones(value: Any, epochs: int) -> Any:
    if not isinstance(value, list) or not all(_is_whole(one) or is_share(one) for one in value):
        return value
    return [rounded(one, epochs) for one in value if not (is_share(one) and rounded(one, epochs) >= epochs)]


def resolved_term(term: Any, epochs: int) -> Any:
    """A term as params.yaml writes it, its shares as whole epochs."""
    if not isinstance(term, Mapping):
        return term
    found = dict(term)
    for field in (*FIELDS, MILESTONES):
        if field in found:
            found[field] = resolved(field, found[field], epochs, found.get("start", 0))
    return found


def resolved_method(terms: Any, epochs: int) -> Any:
    return (
        {name: resolved_term(term, epochs) for name, term in terms.items()}
        if isinstance(terms, Mapping)
        else terms
    )


def resolved_recipe(recipe: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    found = dict(recipe)
    if MILESTONES in found:
        found[MILESTONES] = resolved_milestones(found[MILESTONES], epochs)
    if is_share(found.get("warmup")):
        found["warmup"] = rounded(found["warmup"], epochs)
    return found


def check_milestones(value: Any, epochs: int, place: Place, faults: Faults, *, once: bool = True) -> None:
    """Faults of milestones as params.yaml writes them. That they are a list of epochs the schema checks."""
    if not isinstance(value, list) or not all(_is_whole(one) or is_share(one) for one in value):
        return
    places = [position(one, epochs) for one in value]
    if places != sorted(places) or (once and len(set(places)) < len(places)):
        faults.add(place, f"{value}; expected rising epochs, each once")
    if late := [one for one in value if _is_whole(one) and one >= epochs]:
        faults.add(place, f"{late} beyond the last epoch; training has epochs 0 to {epochs - 1}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
