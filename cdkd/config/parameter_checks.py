"""Checks of one parameter of a study: its range, its choices, and what they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdkd.config import epochs as shares
from cdkd.config.faults import Faults, Place, show, suggest
from cdkd.config.methods import METHOD_KEYS, SETTINGS
from cdkd.config.schema import MAX_LISTED, Parameter, Study
from cdkd.config.search_space import label_of, losses_within
from cdkd.config.search_targets import Written, field_of, kind
from cdkd.config.term_schema import term_model
from cdkd.core.names import EXPECTED, is_name
from cdkd.losses import signature

MAX_LABEL = 100


def check_parameter(
    name: str, parameter: Parameter, study: Study, terms: Written, epochs: int, place: Place, faults: Faults
) -> None:
    ends = (parameter.low, parameter.high)
    if (parameter.choices is not None) == any(end is not None for end in ends):
        faults.add(place, "expected either low and high or choices")
        return
    if parameter.choices is None and None in ends:
        faults.add(place, "expected both low and high")
        return
    named = isinstance(parameter.choices, dict)
    if named and parameter.sets:
        faults.add(
            (*place, "sets"),
            "together with named choices; expected one of the two, as each choice names what it changes",
        )
        return
    if (named or parameter.sets) and not is_name(name):
        faults.add(place, f"{show(name)} is not a valid name; expected {EXPECTED}")
        return
    if named:
        _check_named_choices(parameter.choices, losses_within(study, terms), place, faults)
        return
    kinds = {kind(target, terms, place, faults) for target in parameter.sets or (name,)}
    if None in kinds:
        return
    if parameter.choices is not None:
        _check_choices(parameter.choices, (*place, "choices"), faults)
    elif "other" in kinds:
        faults.add(place, "a range of something that is not a number; expected choices")
    elif "integer" in kinds:
        _check_integer_range(name, parameter, epochs, place, faults)
    else:
        _check_range(parameter, parameter.low, parameter.high, parameter.step, place, faults)
        if study.sampler == "grid" and parameter.step is None:
            faults.add((*place, "step"), "nothing; expected the step of a grid over a range")


def _check_integer_range(name: str, parameter: Parameter, epochs: int, place: Place, faults: Faults) -> None:
    """A range of whole numbers, or of epochs, which may be shares of the training."""
    targets = parameter.sets or (name,)
    may_share = all(field_of(target) in shares.FIELDS for target in targets)
    expected = "expected a whole number" + (" of epochs, or a share of the training" if may_share else "")
    given = {end: getattr(parameter, end) for end in ("low", "high", "step")}
    odd = {end for end, value in given.items() if value is not None and value != int(value)}
    odd -= {end for end in odd if may_share and shares.is_share(given[end])}
    for end in sorted(odd):
        faults.add((*place, end), f"{given[end]:g}; {expected}")
    if not odd:
        low, high, step = (
            None if value is None else shares.position(value, epochs if may_share else 1)
            for value in given.values()
        )
        _check_range(parameter, low, high, step, place, faults)


def _check_range(parameter: Parameter, low: Any, high: Any, step: Any, place: Place, faults: Faults) -> None:
    """low, high, step: in epochs where they are epochs"""
    if low >= high:
        faults.add((*place, "low"), f"{parameter.low:g}; expected less than high, {parameter.high:g}")
    if parameter.log and (low <= 0 or step is not None):
        also = " and a step" if step is not None else ""
        faults.add(
            (*place, "log"), f"true with low {parameter.low:g}{also}; expected low above 0 and no step"
        )
    if step is not None and not 0 < step <= high - low:
        faults.add((*place, "step"), f"{parameter.step:g}; expected more than 0 and at most high - low")


def _check_choices(choices: Any, place: Place, faults: Faults) -> None:
    if not isinstance(choices, list) or not 2 <= len(choices) <= MAX_LISTED:
        faults.add(place, f"{show(choices)}; expected at least two and at most {MAX_LISTED}")
        return
    for index, value in enumerate(choices):
        if not _is_plain(value):
            faults.add((*place, index), f"{show(value)}; expected a number, a text or a list of them")
            return
    kinds = {_kind_of_value(value) for value in choices}
    if len(kinds) > 1:
        mixed = " and ".join(sorted(kinds))
        faults.add(place, f"{show(choices)} mixes {mixed}; expected values of one kind")
    elif len({label_of(value) for value in choices}) < len(choices):
        faults.add(place, f"{show(choices)}; expected each once")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(one) and not isinstance(one, list) for one in value)
    return value is None or (isinstance(value, bool | int | float | str) and value == value)


def _kind_of_value(value: Any) -> str:
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


def _check_named_choices(choices: Any, losses: Mapping[Any, set[str]], place: Place, faults: Faults) -> None:
    if not 2 <= len(choices) <= MAX_LISTED:
        what = f"{show(choices)}; expected at least two and at most {MAX_LISTED}"
        faults.add((*place, "choices"), what)
    for label, change in choices.items():
        where = (*place, "choices", label)
        if not isinstance(label, str) or not label.isprintable() or not 0 < len(label) <= MAX_LABEL:
            faults.add(where, f"{show(label)}; expected a text of 1 to {MAX_LABEL} characters as a label")
        elif not isinstance(change, dict):
            faults.add(
                where, f"{show(change)}; expected changes of the method, such as {{cd: {{weight: 6}}}}"
            )
        else:
            _check_change(change, losses, where, faults)


def _check_change(
    change: Mapping[str, Any], losses: Mapping[Any, set[str]], place: Place, faults: Faults
) -> None:
    """losses: that each term may have"""
    for name, fields in change.items():
        where = (*place, name)
        if name in SETTINGS:
            faults.add(where, f"{show(fields)}; a search cannot change it, make another method of it")
        if name in METHOD_KEYS:
            continue  # checked with the method that comes out
        if not isinstance(fields, dict):
            faults.add(where, f"{show(fields)}; expected changes of the loss, such as {{weight: 6}}")
        elif "loss" in fields and not signature.exists(str(fields["loss"])):
            meant = suggest(str(fields["loss"]), signature.names())
            faults.add((*where, "loss"), f"no such loss {show(fields['loss'])}{meant}")
        elif not losses[name]:
            faults.add(where, f"no such loss{suggest(str(name), signature.names())}")
        else:
            known = list(dict.fromkeys(one for loss in losses[name] for one in term_model(loss).model_fields))
            for field in fields:
                if field not in known:
                    listed = f"{suggest(str(field), known)}; expected one of {', '.join(known)}"
                    faults.add((*where, field), f"unknown key{listed}")
