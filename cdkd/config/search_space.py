"""The space of a search: which numbers of a method it may choose, and the method that a setting of them makes.

A setting is a value for every parameter: a number of a range, or the label of a choice. It is applied to the method as
params.yaml writes it, parameter by parameter in their order, and the result is checked like any other method.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdkd.config.faults import Faults, suggest
from cdkd.config.methods import Place, method_of
from cdkd.config.schema import Parameter, Study, Training, term_model
from cdkd.core.schedule import Method
from cdkd.losses import signature

Setting = Mapping[str, float | int | str]
Terms = dict[str, dict[str, Any]]  # a method as params.yaml writes it
RECIPE = ("learning_rate", "momentum", "weight_decay")  # what trials of one cohort may differ in
EPOCHS = ("start", "stop", "over")


@dataclass(frozen=True)
class Range:
    low: float | int
    high: float | int
    log: bool
    step: float | int | None
    whole: bool


@dataclass(frozen=True)
class Space:
    """A study's space, checked. `base` is the setting that leaves the base method as it is; short: epochs of a trial."""

    study: Study
    terms: Terms
    training: Training
    base: Setting

    @property
    def short(self) -> int:
        return self.study.epochs or self.training.epochs

    def range_of(self, name: str) -> Range | None:
        """None of a choice."""
        return range_within(name, self.study.space[name], self.terms)

    def labels(self, name: str) -> tuple[str, ...]:
        return tuple(changes(self.study.space[name]))

    def grid(self) -> list[Setting]:
        """Every setting of a space of choices and stepped ranges, the base first; those that train nothing in some epoch, or the
        same as an earlier one, are left out."""
        values = [self._values(name) for name in self.study.space]
        settings = [dict(zip(self.study.space, one, strict=True)) for one in itertools.product(*values)]
        settings.sort(key=lambda setting: setting != dict(self.base))
        found: dict[str, Setting] = {}
        for setting in settings:
            if (made := self.made(setting, short=True)) is not None:
                found.setdefault(repr(made), setting)
        return list(found.values())

    def made(self, setting: Setting, *, short: bool) -> tuple[Method, Training] | None:
        """The method and recipe of a setting, in full length or a trial's; None where there is an epoch in which nothing is trained,
        or where two of its milestones fall together."""
        terms, recipe = applied(self.study, self.terms, setting)
        epochs = self.short if short else self.training.epochs
        return built(terms, self.training, recipe, epochs, Faults())

    def _values(self, name: str) -> list[float | int | str]:
        span = self.range_of(name)
        if span is None:
            return list(self.labels(name))
        step = span.step or 1
        count = math.floor((span.high - span.low) / step + 1e-9) + 1
        return [span.low + index * step for index in range(count)]


def range_within(name: str, parameter: Parameter, terms: Terms) -> Range | None:
    if parameter.low is None or parameter.high is None:
        return None
    whole = "whole" in {kind(target, terms, (), Faults()) for target in parameter.sets or (name,)}
    low, high, step = (
        value if value is None else int(value) if whole else float(value)
        for value in (parameter.low, parameter.high, parameter.step)
    )
    return Range(low or 0, high or 0, parameter.log, step, whole)


def label_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def changes(parameter: Parameter) -> dict[str, Any]:
    """label -> what it stands for."""
    choices = parameter.choices
    return dict(choices) if isinstance(choices, dict) else {label_of(value): value for value in choices or ()}


def applied(study: Study, base: Terms, setting: Setting) -> tuple[Terms, dict[str, float]]:
    """The method and the part of the recipe that a setting makes. A change of a loss that is not there counts if it gives the weight."""
    terms: Terms = {loss: dict(term) for loss, term in base.items()}
    recipe: dict[str, float] = {}
    for name, parameter in study.space.items():
        value: Any = (
            changes(parameter)[str(setting[name])] if parameter.choices is not None else setting[name]
        )
        if isinstance(parameter.choices, dict):
            for loss, fields in value.items():
                if loss in terms or "weight" in fields:
                    terms[loss] = terms.get(loss, {}) | fields
            continue
        for target in parameter.sets or (name,):
            loss, _, field = target.partition(".")
            if loss == "training":
                recipe[field] = float(value)
            else:
                terms[loss][field] = value
    return {loss: term for loss, term in terms.items() if term.get("weight") != 0}, recipe


def built(
    terms: Terms, training: Training, recipe: Mapping[str, float], epochs: int, faults: Faults
) -> tuple[Method, Training] | None:
    """Method and recipe, every epoch in them scaled from the recipe's length to this one; None, and faults noted, where they cannot be."""
    share = epochs / training.epochs
    if share != 1:
        terms = {
            loss: {field: _scaled(field, value, share) for field, value in term.items()}
            for loss, term in terms.items()
        }
        milestones = tuple(_whole(milestone * share) for milestone in training.milestones)
        training = training.model_copy(
            update={"epochs": epochs, "milestones": milestones, "warmup": _whole(training.warmup * share)}
        )
        if len(set(milestones)) < len(milestones) or any(milestone >= epochs for milestone in milestones):
            faults.add(("training", "milestones"), f"fall together or beyond the end: {list(milestones)}")
    training = training.model_copy(update=dict(recipe))
    for field, value in recipe.items():
        if (
            not math.isfinite(value)
            or value < 0
            or (field == "learning_rate" and value == 0)
            or (field == "momentum" and value >= 1)
        ):
            faults.add(("training", field), f"{value:g} is out of its bounds")
    method = method_of(terms, (), epochs, faults)
    return None if faults.found else (method, training)


def _scaled(field: str, value: Any, share: float) -> Any:
    if field == "milestones":
        return [_whole(milestone * share) for milestone in value]
    if field == "over" and value is not None:
        return max(1, _whole(value * share))
    return _whole(value * share) if field in ("start", "stop") and value is not None else value


def _whole(epoch: float) -> int:
    return math.floor(epoch + 0.5)


def kind(target: str, terms: Terms, place: Place, faults: Faults) -> str | None:
    """What stands at a place of the method or the recipe: real | whole | other; None, and a fault noted, where there is nothing."""
    loss, _, field = target.partition(".")
    if loss == "training":
        if field in RECIPE:
            return "real"
        faults.add(
            place,
            f"training.{field}: a search may choose {', '.join(f'training.{name}' for name in RECIPE)} of the recipe{suggest(field, RECIPE)}",
        )
        return None
    if loss not in terms:
        known = [*terms, "training"]
        faults.add(
            place,
            f"no {loss!r} in the base method{suggest(loss, known)}; expected a place such as {next(iter(terms))}.weight",
        )
        return None
    if loss not in signature.names():  # the method's own fault, which is listed with the methods
        return None
    fields = term_model(loss).model_fields
    if field not in fields:
        faults.add(
            place,
            f"loss {loss} has no {field!r}{suggest(field, fields)}; expected one of {', '.join(fields)}",
        )
        return None
    annotation = str(fields[field].annotation)
    if field in EPOCHS or ("int" in annotation and "float" not in annotation and "tuple" not in annotation):
        return "whole"
    return "real" if "float" in annotation else "other"
