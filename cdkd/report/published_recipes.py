"""Published recipes, and known effects of their parts, from explain.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cdkd.config.params import Params
from cdkd.config.reading import read
from cdkd.config.schema import Published
from cdkd.report.collect import TEACHER
from cdkd.report.published import Reference, table

KNOWLEDGE = Path(__file__).with_name("explain.yaml")
UNREACHABLE = "none can be reached"  # what a remark says of a published number that no source has
Recipe = Mapping[str, Any]  # one of explain.yaml's recipes


@cache
def knowledge() -> dict[str, Any]:
    return read(KNOWLEDGE)[0]


def unpublished(methods: Iterable[str]) -> list[str]:
    """The published names of those of our methods that have no number in any source that can be reached."""
    known = knowledge()
    lost = {name for one in known["remarks"] if one["theirs"] == UNREACHABLE for name in one["methods"]}
    return sorted(lost & {known["names"].get(method, method) for method in methods})


def dataset(params: Params) -> str | None:
    """published.csv's name of the data; None where it has none."""
    asked = params.report.published
    return asked.dataset if asked else knowledge()["datasets"].get(params.data.source)


def nearest(params: Params, method: str, name: str) -> Published | None:
    """Another pair on the same data with a published result of this method whose recipe is known.

    A pair that shares a network with ours is preferred.
    """
    data = dataset(params)
    known = [one for one in knowledge()["recipes"] if one["data"] == data and name in one["methods"]]
    sources = tuple(one["source"] for one in known)
    rows = (
        [
            row
            for row in table()
            if row["dataset"] == data and row["method"] == name and row["source"].startswith(sources)
        ]
        if sources
        else []
    )
    rows.sort(
        key=lambda row: (row["student"] != params.student.network, row["teacher"] != params.teacher.network)
    )
    if not rows:
        return None
    first = rows[0]
    source = first["source"].partition("@")[0]
    return Published(
        dataset=first["dataset"],
        teacher=first["teacher"],
        student=first["student"],
        source=source,
        methods={method: name, TEACHER: TEACHER},
    )


def recipe_of(pair: Published | None, row: Reference | None) -> Recipe | None:
    """The recipe of the published result; where it has none, that of the other results of the pair."""
    if pair is None:
        return None
    origin = row.source if row else pair.source
    for one in knowledge()["recipes"]:
        if one["data"] == pair.dataset and origin.startswith(one["source"]):
            return _for_pair(one, pair)
    return None


def recipe_without_number(params: Params, name: str) -> Recipe | None:
    """The recipe of a method whose published numbers this project does not have; of our data if there is one.

    None on data that has no published results of other methods either.
    """
    data = dataset(params)
    known = [one for one in knowledge()["recipes"] if name in one["methods"]]
    known.sort(key=lambda one: one["data"] != data)
    if data is None or not known:
        return None
    return _for_pair(known[0], params.report.published)


def _for_pair(recipe: Recipe, pair: Published | None) -> Recipe:
    """With the values that it has for this student, and for this teacher and student."""
    if pair is None:
        return recipe
    own = recipe.get("pairs", {}).get(f"{pair.teacher} → {pair.student}", {})
    methods = {
        name: {loss: values | own.get(name, {}).get(loss, {}) for loss, values in method.items()}
        if name in own
        else method
        for name, method in recipe["methods"].items()
    }
    training = recipe["training"] | recipe.get("students", {}).get(pair.student, {})
    return {**recipe, "training": training, "methods": methods}
