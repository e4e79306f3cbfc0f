"""Checks of a study of params.yaml, which note each fault with its place; and its search space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cdkd.config import epochs as shares
from cdkd.config.faults import Faults, Place, show, suggest
from cdkd.config.methods import loss_of
from cdkd.config.parameter_checks import check_parameter
from cdkd.config.schema import MAX_TRIALS, Parameter, Study, Training
from cdkd.config.search_space import Space, applied, built
from cdkd.config.search_targets import Written, field_of
from cdkd.config.term_schema import term_model


def space_of(
    study: Study, place: Place, methods: Mapping[str, Any], training: Training, faults: Faults
) -> Space | None:
    """The space of a study; None, and its faults noted, where it has any.

    methods: as params.yaml writes them, with whole epochs
    """
    before = len(faults.found)
    terms = _base_of(study, place, methods, faults)
    if terms is None:
        return None
    _check_study(study, terms, training.epochs, place, faults)
    if len(faults.found) > before:
        return None
    space = Space(with_whole_epochs(study, training.epochs), terms, training, {})
    if not _builds(space, place, faults):
        return None
    space = Space(space.study, terms, training, _base_setting(space, place, faults))
    if len(faults.found) == before:
        _check_ends(space, place, faults)
        _check_size(space, place, faults)
    return space if len(faults.found) == before else None


def with_whole_epochs(study: Study, epochs: int) -> Study:
    """The study with whole epochs in place of shares of the training."""
    return study.model_copy(
        update={"space": {name: _whole(name, one, epochs) for name, one in study.space.items()}}
    )


def _whole(name: str, parameter: Parameter, epochs: int) -> Parameter:
    choices = parameter.choices
    if isinstance(choices, dict):
        changed = {label: shares.resolved_method(change, epochs) for label, change in choices.items()}
        return parameter.model_copy(update={"choices": changed})
    field = field_of(parameter.sets[0] if parameter.sets else name)
    if choices is not None:
        whole = [shares.resolved(field, value, epochs) for value in choices]
        return parameter.model_copy(update={"choices": whole})
    ends = {end: shares.resolved(field, getattr(parameter, end), epochs) for end in ("low", "high")}
    step: Any = parameter.step
    if field in shares.FIELDS and shares.is_share(step):
        step = max(1, shares.rounded(step, epochs))
    return parameter.model_copy(update={**ends, "step": step})


def _base_of(study: Study, place: Place, methods: Mapping[str, Any], faults: Faults) -> Written | None:
    """The method that a study starts from; None where there is none."""
    if study.base not in methods:
        faults.add((*place, "base"), f"no method {show(study.base)}{suggest(study.base, methods)}")
        return None
    terms = methods[study.base]
    return terms if isinstance(terms, dict) else None


def _check_study(study: Study, terms: Written, epochs: int, place: Place, faults: Faults) -> None:
    """The faults of a study's parameters and seeds, each by itself."""
    if not study.space:
        example = "cd.weight: {low: 1, high: 20}"
        faults.add((*place, "space"), f"nothing; expected the numbers that may be chosen, such as {example}")
    for name, parameter in study.space.items():
        check_parameter(name, parameter, study, terms, epochs, (*place, "space", name), faults)
    for index, seed in enumerate(study.seeds):
        if seed in study.seeds[:index]:
            faults.add((*place, "seeds", index), f"{seed} again; expected each seed once")


def _builds(space: Space, place: Place, faults: Faults) -> bool:
    """Whether the base method can be built for the full number of epochs and for a trial's."""
    if built(space.terms, space.training, {}, space.training.epochs, Faults()) is None:
        return False  # its own faults are listed with the methods
    inner = Faults()
    if built(space.terms, space.training, {}, space.trial_epochs, inner) is None:
        where, fault = inner.places[0]
        base = ".".join(map(str, (space.study.base, *where)))
        faults.add((*place, "epochs"), f"{space.trial_epochs}: {base} cut to so few: {fault}")
        return False
    return True


def _base_setting(space: Space, place: Place, faults: Faults) -> dict[str, float | int | str]:
    """The setting that leaves the base method as it is: trial 0."""
    found: dict[str, float | int | str] = {}
    for name in space.study.space:
        value = _value_of_base(name, space)
        if value is None:
            own = f"the value of {space.study.base} itself, which is trial 0"
            what = f"leaves out {own}; expected it among these"
            faults.add((*place, "space", name), what)
        else:
            found[name] = value
    return found


def _value_of_base(name: str, space: Space) -> float | int | str | None:
    """The value of a parameter that leaves the base method as it is; None if there is none."""
    parameter = space.study.space[name]
    if parameter.choices is not None:
        return _label_of_base(name, parameter, space)
    values = [_base_value(target, space) for target in parameter.sets or (name,)]
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
    return (int(first) if span.integer else float(first)) if fits else None


def _label_of_base(name: str, parameter: Parameter, space: Space) -> str | None:
    alone = space.study.model_copy(update={"space": {name: parameter}})
    before = built(space.terms, space.training, {}, space.training.epochs, Faults())
    for label in space.labels(name):
        terms, recipe = applied(alone, space.terms, {name: label})
        if built(terms, space.training, recipe, space.training.epochs, Faults()) == before:
            return label
    return None


def _base_value(target: str, space: Space) -> Any:
    name, _, field = target.partition(".")
    if name == "training":
        return getattr(space.training, field)
    term = space.terms[name]
    return term.get(field, term_model(loss_of(name, term)).model_fields[field].default)


def _check_ends(space: Space, place: Place, faults: Faults) -> None:
    """Every end of every range, and every choice, makes a method by itself."""
    for name in space.study.space:
        for what, value in _ends(name, space):
            inner = Faults()
            terms, recipe = applied(space.study, space.terms, {**space.base, name: value})
            made = built(terms, space.training, recipe, space.training.epochs, inner)
            if made is None and not _is_silent(inner):
                where, fault = inner.places[0]
                made_of = ".".join(map(str, where)) or "the method"
                faults.add((*place, "space", name, what), f"makes {made_of} {fault}")


def _is_silent(faults: Faults) -> bool:
    """Whether the only fault is an epoch without a loss. The search leaves out such a combination."""
    return all("nothing would be trained there" in what for _, what in faults.places)


def _ends(name: str, space: Space) -> Iterator[tuple[str, float | int | str]]:
    span = space.range_of(name)
    if span is not None:
        yield "low", span.low
        yield "high", span.high
    else:
        yield from ((f"choices.{label}", label) for label in space.labels(name))


def _check_size(space: Space, place: Place, faults: Faults) -> None:
    """A grid tries every combination."""
    if space.study.sampler != "grid":
        return
    ranges = {name: space.range_of(name) for name in space.study.space}
    counts = [len(space.labels(name)) if span is None else span.count for name, span in ranges.items()]
    if math.prod(counts) > MAX_TRIALS:
        what = f"a grid of {math.prod(counts)} settings; expected at most {MAX_TRIALS}"
        faults.add((*place, "space"), what)
