"""The methods of params.yaml: named sums of losses, each with its weight over time, checked term by term."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from cdkd.config.epochs import MAX_EPOCHS, check_milestones, resolved_term
from cdkd.config.faults import Faults, Place, show, suggest
from cdkd.config.groups import EMA, check_terms, group_of, with_leader
from cdkd.config.term_schema import MAX_WEIGHT, SHARED, term_model
from cdkd.core.group import Group
from cdkd.core.names import EXPECTED, is_name
from cdkd.core.schedule import TEACHER, Inactive, Method, Term, Weight
from cdkd.losses import signature

TAKEN = ("teacher", "search")  # their runs lie in the folder of the methods'
SETTINGS = ("teacher", "epochs")  # of a method: a teacher of `teacher.others`, and epochs of its own
METHOD_KEYS = ("inactive", "group", *SETTINGS)  # keys of a method that are not terms
NO_TERMS = (
    *METHOD_KEYS,
    "training",
)  # names that a term cannot have; `training.x` is the recipe's in a search
INACTIVE: tuple[Inactive, ...] = typing.get_args(Inactive)
LONE = "student"  # the network of a method without a group
MAX_METHODS = 1000
MAX_TERMS = 100


def check_name(value: Any, place: Place, faults: Faults) -> str:
    """The value as text, and a fault noted if it cannot be the name of an experiment, a method or a study."""
    if not is_name(value):
        faults.add(place, f"{show(value)} is not a valid name; expected {EXPECTED}")
    elif value in TAKEN:
        faults.add(place, f"{show(value)} is taken; expected another name than {' or '.join(TAKEN)}")
    return str(value)


def epochs_of(terms: Any, epochs: int | None) -> int | None:
    """The number of epochs of a method as params.yaml writes it; epochs: of the recipe."""
    own = terms.get("epochs") if isinstance(terms, Mapping) else None
    whole = isinstance(own, int) and not isinstance(own, bool) and 0 < own <= MAX_EPOCHS
    return own if whole else epochs


def methods_of(value: Any, epochs: int | None, faults: Faults) -> dict[str, Method]:
    """Every method, as params.yaml writes it; epochs: of the training, None where that is faulty."""
    if not isinstance(value, dict) or not value:
        example = "kd: {ce: {weight: 0.1}, kd: {weight: 0.9}}"
        faults.add(("methods",), f"{show(value)}; expected named methods, such as {example}")
        return {}
    if len(value) > MAX_METHODS:
        faults.add(("methods",), f"{len(value)} methods; expected at most {MAX_METHODS}")
        return {}
    for name in value:
        check_name(name, ("methods", name), faults)
    return {
        str(name): method_of(terms, ("methods", name), epochs_of(terms, epochs), faults)
        for name, terms in value.items()
    }


def method_of(
    value: Any, place: Place, epochs: int | None, faults: Faults, *, rounded: bool = False
) -> Method:
    """One method; faults are noted, and faulty parts are left out.

    rounded: its milestones were rounded from others, so that two may be equal
    """
    terms = terms_of(value)
    if not terms or len(terms) > MAX_TERMS:
        found = f"{len(terms)} losses" if terms else show(value)
        faults.add(
            place, f"{found}; expected 1 to {MAX_TERMS} with their weights, such as {{ce: {{weight: 1}}}}"
        )
        return Method({})
    group: Group | None = None
    networks: tuple[str, ...] = (LONE,)
    if "group" in value:
        group = group_of(value["group"], (*place, "group"), faults)
        networks = () if group is None else tuple(group.networks)
    found_terms: dict[str, Term] = {}
    losses = signature.names()
    for name, term in terms.items():
        if epochs is not None and isinstance(term, dict):
            where = (*place, name, "milestones")
            check_milestones(term.get("milestones"), epochs, where, faults, once=not rounded)
        whole = resolved_term(term, epochs or MAX_EPOCHS)
        averages = group is not None and group.ema is not None
        built = _term(name, whole, (*place, name), epochs, losses, networks, averages, faults)
        if built is not None:
            found_terms[name] = built
    if epochs is not None and len(found_terms) == len(terms):
        _check_weights(found_terms, epochs, place, faults)
    if networks:
        check_terms(found_terms, group, place, faults, complete=len(found_terms) == len(terms))
    return Method(with_leader(found_terms, group), _inactive(value, place, faults), group)


def terms_of(value: Any) -> dict[str, Any]:
    """The terms of a method as params.yaml writes it, without the method's own keys."""
    return (
        {name: term for name, term in value.items() if name not in METHOD_KEYS}
        if isinstance(value, dict)
        else {}
    )


def loss_of(name: str, term: Any) -> Any:
    """The loss that a term names; by default its own name."""
    return term.get("loss", name) if isinstance(term, dict) else name


def _inactive(value: Mapping[str, Any], place: Place, faults: Faults) -> Inactive:
    found = value.get("inactive", INACTIVE[0])
    if found not in INACTIVE:
        meant = suggest(str(found), INACTIVE)
        faults.add((*place, "inactive"), f"{show(found)}{meant}; expected {' or '.join(INACTIVE)}")
        return INACTIVE[0]
    return typing.cast(Inactive, found)


def _term(
    name: Any,
    value: Any,
    place: Place,
    epochs: int | None,
    losses: Sequence[str],
    networks: Sequence[str],
    averages: bool,
    faults: Faults,
) -> Term | None:
    """losses: names of all losses; networks: of the method, none where its group is faulty

    averages: whether its group has moving averages
    """
    loss = loss_of(name, value)
    if loss not in losses and not (isinstance(loss, str) and signature.exists(loss)):
        given = isinstance(value, dict) and "loss" in value
        what = f"no such loss {show(loss)}{suggest(str(loss), losses)}; expected one of {', '.join(losses)}"
        faults.add((*place, "loss") if given else place, what)
        return None
    if name not in losses and (not is_name(name) or name in NO_TERMS):
        faults.add(place, f"{show(name)} is not a valid name for a term; expected {EXPECTED}")
        return None
    built = faults.section(term_model(loss), value, place)
    if built is None:
        return None
    weight = Weight(
        built.weight,
        built.start,
        built.stop,
        built.milestones,
        built.decay,
        built.curve,
        built.over,
        built.rise,
        built.rise_curve,
        built.rise_from,
    )
    _check_weight(weight, place, faults)
    if epochs is not None:
        _check_epochs(weight, epochs, place, faults)
    of, source = _networks(built, networks, averages, place, faults)
    defaults = {option: one.default for option, one in signature.options(loss).items()}
    options = {
        option: value
        for option, value in built.model_dump().items()
        if option not in SHARED and not _is_off(value, defaults[option])
    }
    return Term(weight, options, loss, of, source)


def _is_off(value: Any, default: Any) -> bool:
    """A number that is 0 by default, and is 0: left out of a configuration, so that it can be a new option.

    A new option of this kind changes no run's configuration, and results of older code can be adopted.
    """
    return isinstance(value, float) and value == default == 0


def _check_weight(weight: Weight, place: Place, faults: Faults) -> None:
    """Cross-checks of the fields of a weight."""
    if weight.over is not None and weight.milestones:
        faults.add((*place, "over"), f"{weight.over} together with milestones; expected one of the two")
    if weight.over is None and weight.curve != "step":
        faults.add(
            (*place, "curve"), f"{weight.curve} without over; expected over, the epochs until weight * decay"
        )
    if weight.decay == 0 and weight.curve not in ("linear", "cosine"):
        faults.add((*place, "decay"), "0; expected more than 0, except for a linear or cosine curve")
    if weight.stop is not None and weight.stop <= weight.start:
        faults.add((*place, "stop"), f"{weight.stop}; expected more than start, {weight.start}")
    if weight.rise is None and weight.rise_curve != "exponential":
        faults.add(
            (*place, "rise_curve"), f"{weight.rise_curve} without rise; expected rise, the epochs of it"
        )
    if weight.rise_from != 0 and (weight.rise is None or weight.rise_curve != "linear"):
        faults.add(
            (*place, "rise_from"), f"{weight.rise_from}; expected it together with rise_curve: linear only"
        )


def _check_epochs(weight: Weight, epochs: int, place: Place, faults: Faults) -> None:
    for field, limit in (("start", epochs - 1), ("stop", epochs)):
        epoch = getattr(weight, field)
        if epoch is not None and epoch > limit:
            what = f"{epoch} beyond the last epoch; training has epochs 0 to {epochs - 1}"
            faults.add((*place, field), what)


def _networks(
    built: Any, networks: Sequence[str], averages: bool, place: Place, faults: Faults
) -> tuple[tuple[str, ...] | None, str]:
    """The networks that a term trains (None: all), and what they learn from."""
    of = (built.of,) if isinstance(built.of, str) else tuple(built.of or ())
    if not networks:
        return (of or None), getattr(built, "from")
    for name in of:
        if name not in networks:
            what = f"no network {show(name)}{suggest(name, networks)}; expected {_one_of(networks)}"
            faults.add((*place, "of"), what)
    if len(set(of)) < len(of):
        faults.add((*place, "of"), f"{list(of)}; expected each network once")
    source: str = getattr(built, "from")
    several = len(networks) > 1
    sources = (TEACHER, *(networks if several else ()), *((EMA,) if several and averages else ()))
    if source not in sources and not (several and source == EMA):  # that it lacks is noted by check_terms
        what = f"no network {show(source)}{suggest(source, sources)}; expected {_one_of(sources)}"
        faults.add((*place, "from"), what)
    return (of if of and set(of) != set(networks) else None), source


def _one_of(names: Sequence[str]) -> str:
    more = " (a method without group has one network)" if len(names) == 1 else ""
    return f"{' or '.join(names)}{more}"


def _check_weights(terms: Mapping[str, Term], epochs: int, place: Place, faults: Faults) -> None:
    """No epoch in which every weight is 0, and none in which a weight is too large.

    Between two epochs at which something changes, a weight only rises or only falls: both ends are enough.
    """
    edges = sorted(
        {0, epochs, *(e for term in terms.values() for e in _edges(term.weight) if 0 < e < epochs)}
    )
    silent = [
        (first, end - 1)
        for first, end in pairwise(edges)
        if not any(_at(term.weight, first) > 0 for term in terms.values())
    ]
    if silent:
        what = f"no loss has a weight above 0 in epochs {_ranges(silent)}; nothing would be trained there"
        faults.add(place, what)
    for name, term in terms.items():
        ends = (epoch for first, end in pairwise(edges) for epoch in (first, end - 1))
        large = next((epoch for epoch in ends if not _at(term.weight, epoch) <= MAX_WEIGHT), None)
        if large is not None:
            what = f"the weight grows beyond {MAX_WEIGHT:g} in epoch {large}; expected a smaller decay"
            faults.add((*place, name, "decay"), what)


def _edges(weight: Weight) -> Iterable[int]:
    yield from (weight.start, weight.start + 1, *weight.milestones)
    if weight.stop is not None:
        yield weight.stop
    for length in (weight.over, weight.rise):
        if length is not None:
            yield weight.start + length


def _at(weight: Weight, epoch: int) -> float:
    try:
        return weight.at(epoch)
    except OverflowError:
        return float("inf")


def _ranges(spans: Sequence[tuple[int, int]]) -> str:
    """[(0, 1), (2, 2), (7, 7)] as "0-2, 7"."""
    joined: list[list[int]] = []
    for first, last in spans:
        if joined and first == joined[-1][1] + 1:
            joined[-1][1] = last
        else:
            joined.append([first, last])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in joined)
