"""The section `search` of params.yaml: named studies, each checked against the methods and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cdkd.config.faults import Faults, Place, show
from cdkd.config.methods import check_name
from cdkd.config.schema import Study, Training
from cdkd.config.search_space import Space
from cdkd.config.search_space_checks import space_of


def studies_of(
    value: Any,
    methods: Any,
    training: Training | None,
    faults: Faults,
    recipes: Mapping[str, Training] = MappingProxyType({}),
) -> dict[str, Space]:
    """Every study's space.

    methods: as params.yaml writes them, with whole epochs
    training: None where it is faulty; recipes: of methods that have one of their own
    """
    if not isinstance(value, dict):
        faults.add(("search",), f"{show(value)}; expected named studies")
        return {}
    found: dict[str, Space] = {}
    names = set(methods) if isinstance(methods, dict) else set()
    for name, section in value.items():
        place = ("search", name)
        check_name(name, place, faults)
        study = _study(section, place, faults)
        if study is None:
            continue
        if study.method is not None:
            check_name(study.method, (*place, "method"), faults)
            if study.method in names:
                faults.add((*place, "method"), f"{show(study.method)} is another method's name")
            names.add(study.method)
        if training is not None and isinstance(methods, dict):
            space = space_of(study, place, methods, recipes.get(study.base, training), faults)
            if space is not None:
                found[name] = space
    return found


def methods_given(studies: Any) -> list[str]:
    """The methods that studies name as their result, faulty or not."""
    found = studies.values() if isinstance(studies, dict) else ()
    return [str(study["method"]) for study in found if isinstance(study, dict) and "method" in study]


def _study(section: Any, place: Place, faults: Faults) -> Study | None:
    """The study. If it has faults, the part that can still be checked, or None."""
    study: Study | None = faults.section(Study, section, place)
    if study is None and isinstance(section, dict):
        part = {key: section[key] for key in ("base", "method", "space") if key in section}
        study = Faults().section(Study, part, ())
    return study
