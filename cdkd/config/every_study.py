"""`search: {every: {trials: 16}}`: a study of the same budget for each compared method.

A row with tuned numbers is only fair beside rows that were tuned as much. `every` stands for one study of
each method, named `every_<method>`, which trains its best setting as `<method>_tuned`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdkd.config.faults import Faults, show, suggest
from cdkd.config.methods import loss_of, terms_of
from cdkd.config.schema import MAX_RATE, Training
from cdkd.config.term_schema import MAX_WEIGHT

EVERY = "every"
TUNED = "_tuned"
REFERENCE = "ce"  # its weight stays: only ratios of weights matter, up to the learning rate
RATE = "training.learning_rate"
AROUND_WEIGHT, AROUND_RATE = 8.0, 4.0  # from the value divided by this to the value times this, log-uniform


def with_every(search: Any, methods: Any, training: Training | None, faults: Faults) -> Any:
    """The section `search` with the studies that `every` stands for in its place.

    methods: as params.yaml writes them; training: None where it is faulty
    """
    if not isinstance(search, dict) or not isinstance(methods, dict) or EVERY not in search:
        return search
    rest = {name: study for name, study in search.items() if name != EVERY}
    every = search[EVERY]
    if not isinstance(every, dict) or "trials" not in every:
        faults.add(
            ("search", EVERY), f"{show(every)}; expected a section with trials, such as {{trials: 16}}"
        )
        return rest
    spaces = _named(every.get("space", {}), methods, faults)
    common = {key: value for key, value in every.items() if key not in ("methods", "space")}
    made = {}
    for name in _methods(every, methods, faults):
        method = f"{name}{TUNED}"
        if any(isinstance(study, dict) and study.get("method") == method for study in rest.values()):
            what = f"{method} is the method of another study too; leave {name} out of `methods`"
            faults.add(("search", EVERY), what)
            continue
        space = spaces.get(name) or default_space(methods[name], training)
        made[f"{EVERY}_{name}"] = {**common, "base": name, "method": method, "space": space}
    return {**rest, **made}


def _methods(every: Mapping[str, Any], methods: Mapping[str, Any], faults: Faults) -> list[str]:
    wanted = every.get("methods")
    if wanted is None:
        return [str(name) for name in methods]
    if not isinstance(wanted, list):
        faults.add(("search", EVERY, "methods"), f"{show(wanted)}; expected a list of methods")
        return []
    for index, name in enumerate(wanted):
        if name not in methods:
            what = f"no method {show(name)}{suggest(str(name), methods)}"
            faults.add(("search", EVERY, "methods", index), what)
    return [name for name in dict.fromkeys(wanted) if name in methods]


def _named(spaces: Any, methods: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """The spaces that are given, by method."""
    place = ("search", EVERY, "space")
    if not isinstance(spaces, dict):
        faults.add(place, f"{show(spaces)}; expected a space for each of some methods")
        return {}
    for name in spaces:
        if name not in methods:
            faults.add((*place, name), f"no method {show(name)}{suggest(str(name), methods)}")
    return {str(name): space for name, space in spaces.items() if name in methods}


def default_space(terms: Any, training: Training | None) -> dict[str, Any]:
    """The learning rate, and the weight of every term but cross-entropy: log-uniform around their values."""
    rate = 0.05 if training is None else training.learning_rate
    space = {RATE: _around(rate, AROUND_RATE, MAX_RATE)}
    for name, term in terms_of(terms).items():
        weight = term.get("weight") if isinstance(term, dict) else None
        if isinstance(weight, int | float) and weight > 0 and loss_of(name, term) != REFERENCE:
            space[f"{name}.weight"] = _around(weight, AROUND_WEIGHT, MAX_WEIGHT)
    return space


def _around(value: float, factor: float, most: float) -> dict[str, Any]:
    return {"low": float(value) / factor, "high": min(float(value) * factor, most), "log": True}
