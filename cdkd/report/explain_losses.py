"""Differences between the losses of a method and those of its published row, value by value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cdkd.config.faults import Faults
from cdkd.config.groups import with_student
from cdkd.config.methods import method_of
from cdkd.core.group import Group
from cdkd.core.schedule import Method, Term
from cdkd.report.notes import formula
from cdkd.report.published_recipes import KNOWLEDGE, Recipe, knowledge
from cdkd.report.wording import plural

NOTHING = "–"
FORM = "form"  # the option of a loss that chooses between the paper's formula and the code's


def losses(ours: Method, name: str, recipe: Recipe, student: str) -> Iterator[tuple[str, str, str]]:
    """What, ours, theirs; the form of a loss also where both agree, if the effect of another one is known.

    name: the published row's; student: the name of our network, for a recipe with groups
    """
    if name not in recipe["methods"]:
        yield "losses", formula(ours), "not stated in the sources of this project"
        return
    faults = Faults(KNOWLEDGE, {})
    theirs = method_of(with_student(recipe["methods"], student)[name], ("methods", name), None, faults)
    faults.raise_if_any()
    yield from _groups(ours.group, theirs.group)
    for loss in dict.fromkeys((*theirs, *ours)):
        if loss not in ours or loss not in theirs:
            mine, their = (
                formula(Method({loss: terms[loss]})) if loss in terms else "none" for terms in (ours, theirs)
            )
            yield f"loss {loss}", mine, their
            continue
        values = zip(_values(ours[loss]).items(), _values(theirs[loss]).values(), strict=True)
        for (what, mine), their in values:
            item = f"{what} of {loss}"
            if mine != their:
                yield item, mine, their
            elif what == FORM and any(one["item"] == item for one in knowledge()["worth"]):
                yield item, mine, f"{their}; there are others"
    if "decayed" in (ours.inactive, theirs.inactive):  # also where they agree: no paper says it
        yield "inactive parameters", ours.inactive, f"{theirs.inactive} (released code)"


def _groups(ours: Group | None, theirs: Group | None) -> Iterator[tuple[str, str, str]]:
    """What differs in the networks that are trained together, and in how."""
    if ours is None or theirs is None:
        mine, their = (NOTHING if one is None else _networks(one) for one in (ours, theirs))
        if mine != their:
            yield "group", mine, their
        return
    if _networks(ours) != _networks(theirs):
        yield "group", _networks(ours), _networks(theirs)
    for name in ("update", "batches", "gradient", "views", "ema", "evaluate", "classifiers"):
        mine, their = (as_text(getattr(one, name)) for one in (ours, theirs))
        if mine != their:
            yield f"{name} of the group", mine, their


def _networks(group: Group) -> str:
    common = "" if group.shared is None else f", stem and {plural(group.shared, 'stage')} in common"
    number = list(group.networks).index(group.deployed)
    return f"{plural(len(group.networks), 'network')}{common}; number {number + 1} is deployed"


def _values(term: Term) -> dict[str, str]:
    """The values of a term as text; the same keys for every term of one loss."""
    weight = term.weight
    decay = (
        f"×{weight.decay:g} at {as_text(weight.milestones)}"
        if weight.milestones and weight.decay != 1
        else "none"
    )
    decay = decay if weight.over is None else f"{weight.curve} to ×{weight.decay:g} over {weight.over}"
    options = {option: as_text(value) for option, value in sorted(term.options.items())}
    return {
        "weight": as_text(weight.value),
        "start": as_text(weight.start),
        "stop": as_text(weight.stop),
        "decay": decay,
        "rise": _rise(term),
        "networks": "all" if term.of is None else as_text(term.of),
        "source": term.source,
    } | options


def _rise(term: Term) -> str:
    weight = term.weight
    if weight.rise is None:
        return "none"
    start = f" from {weight.rise_from}" if weight.rise_curve == "linear" else ""
    return f"{weight.rise_curve}{start} over {plural(weight.rise, 'epoch')}"


def as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
