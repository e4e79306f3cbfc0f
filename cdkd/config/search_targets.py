"""The places that a search may choose: `cd.weight` of the method, `training.learning_rate` of the recipe."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from cdkd.config import epochs as shares
from cdkd.config.faults import Faults, Place, show, suggest
from cdkd.config.methods import loss_of, terms_of
from cdkd.config.term_schema import NETWORKS, term_model
from cdkd.losses import signature

Written = dict[str, Any]  # a method as params.yaml writes it, with whole epochs in place of shares
RECIPE = ("learning_rate", "momentum", "weight_decay")  # values in which the trials of one cohort may differ


def field_of(target: str) -> str:
    return target.partition(".")[2]


def kind(target: str, terms: Written, place: Place, faults: Faults) -> str | None:
    """What is at a place of the method or the recipe: real | integer | other.

    None, and a fault noted, where there is nothing that a search may choose.
    """
    name, _, field = target.partition(".")
    if name == "training":
        return _recipe_kind(field, place, faults)
    if target == "inactive":
        return "other"
    known = terms_of(terms)
    if name not in known:
        places = [*known, "training"]
        example = next((f"{one}.weight" for one in known), "ce.weight")
        what = (
            f"no {show(name)} in the base method{suggest(name, places)}; expected a place such as {example}"
        )
        faults.add(place, what)
        return None
    loss = loss_of(name, known[name])
    if not (
        isinstance(loss, str) and signature.exists(loss)
    ):  # the method's own fault, which is listed with the methods
        return None
    fields = {one: info for one, info in term_model(loss).model_fields.items() if one not in NETWORKS}
    if field not in fields:
        listed = f"{suggest(field, fields)}; expected one of {', '.join(fields)}"
        faults.add(place, f"loss {loss} has no {show(field)}{listed}")
        return None
    allowed = set(_types(fields[field].annotation)) - {type(None)}
    if field in shares.FIELDS or allowed == {int}:
        return "integer"
    return "real" if allowed and allowed <= {int, float} else "other"


def _types(annotation: Any) -> Iterator[Any]:
    """The types of which a value may be."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _types(inner[0])
    elif origin in (typing.Union, types.UnionType):
        for one in inner:
            yield from _types(one)
    else:
        yield annotation


def _recipe_kind(field: str, place: Place, faults: Faults) -> str | None:
    if field in RECIPE:
        return "real"
    choosable = ", ".join(f"training.{name}" for name in RECIPE)
    faults.add(
        place, f"training.{field}: a search may choose {choosable} of the recipe{suggest(field, RECIPE)}"
    )
    return None
