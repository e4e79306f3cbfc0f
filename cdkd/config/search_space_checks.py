"""What can be wrong with a study of params.yaml, each fault with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cdkd.config.faults import Faults, show, suggest
from cdkd.config.methods import Place
from cdkd.config.schema import Parameter, Study, Training, term_model
from cdkd.config.search_space import Space, Terms, applied, built, kind, label_of
from cdkd.losses import signature


def space_of(
    study: Study, place: Place, methods: Mapping[str, Any], training: Training, faults: Faults
) -> Space | None:
    """The space of a study, or None and its faults noted.

    methods: as params.yaml writes them
    """
    before = len(faults.found)
    if study.base not in methods:
        faults.add((*place, "base"), f"no method {show(study.base)}{suggest(study.base, methods)}")
        return None
    terms: Terms = methods[study.base]
    if not study.space:
        faults.add(
            (*place, "space"),
            "nothing; expected the numbers that may be chosen, such as cd.weight: {low: 1, high: 20}",
        )
    for name, parameter in study.space.items():
        _check(name, parameter, study, terms, (*place, "space", name), faults)
    for index, seed in enumerate(study.seeds):
        if seed in study.seeds[:index]:
            faults.add((*place, "seeds", index), f"{seed} again; a seed counts once")
    if len(faults.found) > before:
        return None
    base: dict[str, float | int | str] = {}
    space = Space(study, terms, training, base)
    inner = Faults()
    whole = built(terms, training, {}, training.epochs, inner)
    if whole is None:  # its own faults are listed with the methods
        return None
    if built(terms, training, {}, space.short, inner) is None:
        faults.add((*place, "epochs"), f"{space.short}: {study.base} cut to so few: {inner.places[0][1]}")
        return None
    for name in study.space:
        value = _value_of_base(name, space)
        if value is None:
            faults.add(
                (*place, "space", name),
                f"leaves out what {study.base} has; its own numbers are trial 0, so one value must be theirs",
            )
        else:
            base[name] = value
    if len(faults.found) > before:
        return None
    for name in study.space:
        for what, value in _ends(name, space):
            inner = Faults()
            terms_there, recipe = applied(study, terms, {**base, name: value})
            if built(terms_there, training, recipe, training.epochs, inner) is None and not _only_silent(
                inner
            ):
                where, fault = inner.places[0]
                faults.add(
                    (*place, "space", name, what),
                    f"makes {'.'.join(map(str, where)) or 'the method'} {fault}",
                )
    return space if len(faults.found) == before else None


def _only_silent(faults: Faults) -> bool:
    """Nothing but an epoch without a loss: a combination that a search steps over."""
    return all("nothing would be trained there" in what for _, what in faults.places)


def _ends(name: str, space: Space) -> Iterator[tuple[str, float | int | str]]:
    span = space.range_of(name)
    if span is not None:
        yield "low", span.low
        yield "high", span.high
    else:
        yield from ((f"choices.{label}", label) for label in space.labels(name))


def _check(name: str, parameter: Parameter, study: Study, terms: Terms, place: Place, faults: Faults) -> None:
    """The faults that one parameter has by itself."""
    named = isinstance(parameter.choices, dict)
    bounds = parameter.low is not None or parameter.high is not None
    if bounds == (parameter.choices is not None):
        faults.add(place, "expected either low and high or choices")
        return
    if bounds and (parameter.low is None or parameter.high is None):
        faults.add(place, "expected both low and high")
        return
    if named and parameter.sets:
        faults.add((*place, "sets"), "beside named choices, which say themselves what they change")
        return
    kinds = set() if named else {kind(target, terms, place, faults) for target in parameter.sets or (name,)}
    if None in kinds:
        return
    if parameter.choices is not None:
        _check_choices(parameter, terms, place, faults)
        return
    low, high = parameter.low or 0, parameter.high or 0
    if low >= high:
        faults.add((*place, "low"), f"{low:g}; expected less than high, {high:g}")
    if parameter.log and (low <= 0 or parameter.step is not None):
        faults.add(
            (*place, "log"),
            f"true with low {low:g}{' and a step' if parameter.step else ''}; expected low above 0 and no step",
        )
    if parameter.step is not None and not 0 < parameter.step <= high - low:
        faults.add((*place, "step"), f"{parameter.step:g}; expected more than 0 and at most high - low")
    if "other" in kinds:
        faults.add(place, "a range of what is no number; expected choices")
    if "whole" in kinds:
        for field in ("low", "high", "step"):
            value = getattr(parameter, field)
            if value is not None and value != int(value):
                faults.add((*place, field), f"{value:g}; expected a whole number, an epoch")
    elif study.sampler == "grid" and parameter.step is None:
        faults.add((*place, "step"), "nothing; a grid over a range needs its step")


def _check_choices(parameter: Parameter, terms: Terms, place: Place, faults: Faults) -> None:
    choices = parameter.choices
    assert choices is not None
    if len(choices) < 2:
        faults.add((*place, "choices"), f"{show(choices)}; expected at least two")
    if isinstance(choices, dict):
        for label, change in choices.items():
            for loss, fields in change.items():
                if loss not in signature.names():
                    faults.add(
                        (*place, "choices", label, loss), f"no such loss{suggest(loss, signature.names())}"
                    )
                    continue
                known = term_model(loss).model_fields
                for field in fields:
                    if field not in known:
                        faults.add(
                            (*place, "choices", label, loss, field),
                            f"unknown key{suggest(field, known)}; expected one of {', '.join(known)}",
                        )
        return
    sorts = {
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
        for value in choices
    }
    if len(sorts) > 1:
        faults.add(
            (*place, "choices"),
            f"{show(choices)} mixes {' and '.join(sorted(sorts))}; expected values of one kind",
        )
    elif len({label_of(value) for value in choices}) < len(choices):
        faults.add((*place, "choices"), f"{show(choices)}; expected each once")


def _value_of_base(name: str, space: Space) -> float | int | str | None:
    """The value of a parameter that leaves the base method as it is; None if there is none."""
    parameter = space.study.space[name]
    if parameter.choices is not None:
        labels = space.labels(name)
        alone = space.study.model_copy(update={"space": {name: parameter}})
        before = built(space.terms, space.training, {}, space.training.epochs, Faults())
        for label in labels:
            terms, recipe = applied(alone, space.terms, {name: label})
            if built(terms, space.training, recipe, space.training.epochs, Faults()) == before:
                return label
        return None
    values = [_there(target, space) for target in parameter.sets or (name,)]
    span = space.range_of(name)
    assert span is not None
    first = values[0]
    fits = (
        isinstance(first, int | float)
        and all(value == first for value in values)
        and span.low <= first <= span.high
    )
    if fits and span.step is not None:
        steps = (first - span.low) / span.step
        fits = abs(steps - round(steps)) < 1e-9
    return (int(first) if span.whole else float(first)) if fits else None


def _there(target: str, space: Space) -> Any:
    loss, _, field = target.partition(".")
    if loss == "training":
        return getattr(space.training, field)
    return space.terms[loss].get(field, term_model(loss).model_fields[field].default)
