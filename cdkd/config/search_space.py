"""The space of a search: the numbers of a method that it may choose, and the method that a setting makes.

A setting is a value for every parameter: a number of a range, or the label of a choice. It is applied to the
method as params.yaml writes it, parameter by parameter in their order; the result is checked like any other.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdkd.config import epochs as shares
from cdkd.config.faults import Faults, Place
from cdkd.config.methods import METHOD_KEYS, loss_of, method_of, terms_of
from cdkd.config.recipe import check_recipe
from cdkd.config.schema import MAX_RATE, Parameter, Study, Training
from cdkd.config.search_targets import Written, kind
from cdkd.core.schedule import Method
from cdkd.losses import signature

Setting = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Range:
    low: float | int
    high: float | int
    log: bool
    step: float | int | None
    integer: bool

    @property
    def count(self) -> int:
        """Of its values, if it has steps."""
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def values(self) -> list[float | int]:
        return [self.low + index * (self.step or 1) for index in range(self.count)]


@dataclass(frozen=True)
class Space:
    """A study's space, checked.

    terms: the base method as params.yaml writes it, with whole epochs
    base: the setting that leaves the base method as it is
    """

    study: Study
    terms: Written
    training: Training
    base: Setting

    @property
    def trial_epochs(self) -> int:
        """The number of epochs of a trial."""
        return self.study.epochs or self.training.epochs

    @property
    def losses(self) -> set[str]:
        """Every loss that a trial may use."""
        return {loss for found in losses_within(self.study, self.terms).values() for loss in found}

    @property
    def trials(self) -> int:
        """The number of trials of the whole study."""
        return len(self.grid()) if self.study.sampler == "grid" else self.study.trials

    def range_of(self, name: str) -> Range | None:
        """None of a choice."""
        return range_within(name, self.study.space[name], self.terms)

    def labels(self, name: str) -> tuple[str, ...]:
        return tuple(changes(self.study.space[name]))

    def grid(self) -> list[Setting]:
        """Every setting of a space of choices and stepped ranges, the base first.

        Left out are those that train nothing in some epoch, and those that train the same as an earlier one.
        """
        values = [self._values(name) for name in self.study.space]
        settings = [dict(zip(self.study.space, one, strict=True)) for one in itertools.product(*values)]
        settings.sort(key=lambda setting: setting != dict(self.base))
        found: dict[str, Setting] = {}
        for setting in settings:
            if (made := self.method_of(setting, trial=True)) is not None:
                found.setdefault(repr(made), setting)
        return list(found.values())

    def method_of(self, setting: Setting, *, trial: bool) -> tuple[Method, Training] | None:
        """The method and recipe of a setting, for the full number of epochs or for a trial's.

        None where nothing is trained in some epoch, or where milestones fall together in the shorter trial.
        """
        terms, recipe = applied(self.study, self.terms, setting)
        epochs = self.trial_epochs if trial else self.training.epochs
        return built(terms, self.training, recipe, epochs, Faults())

    def _values(self, name: str) -> list[Any]:
        span = self.range_of(name)
        return list(self.labels(name)) if span is None else span.values()


def losses_within(study: Study, terms: Written) -> dict[Any, set[str]]:
    """The losses that each term may have: the base method's, and those that named choices make it."""
    written = [terms_of(terms)]
    for parameter in study.space.values():
        if isinstance(parameter.choices, dict):
            written += map(terms_of, parameter.choices.values())
    found = dict[Any, set[str]]()
    for one in written:
        for name, term in one.items():
            loss = loss_of(name, term)
            known = isinstance(loss, str) and signature.exists(loss)
            found.setdefault(name, set()).update({loss} if known else set())
    return found


def range_within(name: str, parameter: Parameter, terms: Written) -> Range | None:
    if parameter.low is None or parameter.high is None:
        return None
    integer = "integer" in {kind(target, terms, (), Faults()) for target in parameter.sets or (name,)}
    number = int if integer else float
    step = None if parameter.step is None else number(parameter.step)
    return Range(number(parameter.low), number(parameter.high), parameter.log, step, integer)


def label_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def changes(parameter: Parameter) -> dict[str, Any]:
    """label -> what it stands for."""
    choices = parameter.choices
    return dict(choices) if isinstance(choices, dict) else {label_of(value): value for value in choices or ()}


def applied(study: Study, base: Written, setting: Setting) -> tuple[Written, dict[str, float]]:
    """The method and the part of the recipe that a setting makes.

    A change of a term that is not there is a new term if it gives the weight; else it changes nothing.
    """
    terms: Written = {name: dict(term) if isinstance(term, dict) else term for name, term in base.items()}
    recipe: dict[str, float] = {}
    for name, parameter in study.space.items():
        value: Any = setting[name] if parameter.choices is None else changes(parameter)[str(setting[name])]
        if isinstance(parameter.choices, dict):
            _change(terms, value)
        else:
            for target in parameter.sets or (name,):
                _set(terms, recipe, target, value)
    return {name: term for name, term in terms.items() if not _is_off(term)}, recipe


def _change(terms: Written, change: Mapping[str, Any]) -> None:
    for name, fields in change.items():
        if name in METHOD_KEYS:
            terms[name] = fields
        elif name in terms or "weight" in fields:
            terms[name] = terms.get(name, {}) | fields


def _set(terms: Written, recipe: dict[str, float], target: str, value: Any) -> None:
    name, _, field = target.partition(".")
    if name == "training":
        recipe[field] = float(value)
    elif name in METHOD_KEYS:
        terms[name] = value
    else:
        terms[name][field] = value


def _is_off(term: Any) -> bool:
    return isinstance(term, dict) and term.get("weight") == 0


def built(
    terms: Written, training: Training, recipe: Mapping[str, float], epochs: int, faults: Faults
) -> tuple[Method, Training] | None:
    """Method and recipe, every epoch in them scaled from the recipe's length to this one.

    None, and faults noted, where they cannot be.
    """
    share = epochs / training.epochs
    if share != 1:
        terms = {name: _scaled_term(name, term, share, faults) for name, term in terms.items()}
        milestones = _scaled_milestones(training.milestones, share, ("training", "milestones"), faults)
        if any(milestone >= epochs for milestone in milestones):
            faults.add(("training", "milestones"), f"{milestones} beyond the last epoch, {epochs - 1}")
        update = {
            "epochs": epochs,
            "milestones": tuple(milestones),
            "warmup": _scaled_warmup(training, share, epochs),
        }
        training = training.model_copy(update=update)
    training = training.model_copy(update=dict(recipe))
    for field, value in recipe.items():
        _check_recipe(field, value, faults)
    check_recipe(training, recipe, ("training",), faults)
    method = method_of(terms, (), epochs, faults, rounded=True)
    return None if faults.found else (method, training)


def _check_recipe(field: str, value: float, faults: Faults) -> None:
    limit = {"learning_rate": MAX_RATE, "momentum": 1.0, "weight_decay": 10.0}[field]
    inside = 0 <= value <= limit and not (field == "learning_rate" and value == 0)
    if not inside or (field == "momentum" and value == 1):
        faults.add(("training", field), f"{value:g} is out of its bounds")


def _scaled_term(name: str, term: Any, share: float, faults: Faults) -> Any:
    if not isinstance(term, dict):
        return term
    return {field: _scaled(field, value, share, (name, field), faults) for field, value in term.items()}


def _scaled(field: str, value: Any, share: float, place: Place, faults: Faults) -> Any:
    if field == shares.MILESTONES and isinstance(value, list):
        return _scaled_milestones(value, share, place, faults)
    if field not in shares.FIELDS or value is None:
        return value
    epoch = _whole(value * share)
    return max(1, epoch) if field in ("over", "rise") else epoch


def _scaled_milestones(value: Any, share: float, place: Place, faults: Faults) -> list[int]:
    scaled = [_whole(milestone * share) for milestone in value]
    if len(set(scaled)) < len(set(value)):
        faults.add(place, f"fall together: {scaled}")
    return scaled


def _scaled_warmup(training: Training, share: float, epochs: int) -> int:
    """A cycle has an epoch that rises and one that falls."""
    warmup = _whole(training.warmup * share)
    if training.schedule == "step":
        return warmup
    return min(max(warmup, training.schedule == "one_cycle"), epochs - 1)


def _whole(epoch: float) -> int:
    return math.floor(epoch + 0.5)
