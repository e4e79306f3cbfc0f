"""The schema of a term of a method: its loss, its weight over time, and the loss's own options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, Field

from cdkd.config.option_types import type_of
from cdkd.config.schema import Epoch, Milestones, Section, Text
from cdkd.core.errors import BadParams
from cdkd.core.own_code import cached
from cdkd.core.schedule import TEACHER, Curve, Rise
from cdkd.losses import signature

MAX_WEIGHT = 1e12  # times a loss and a learning rate it is still a number of float32

Lasting = Annotated[Epoch, Field(ge=1)]


class WeightFields(Section):
    """A loss of a method: its weight over time, its options, and the networks that it trains.

    weight: the factor of the loss, before anything changes it
    start: the first epoch of the term
    stop: the first epoch without it; without stop it lasts to the end
    milestones: epochs at which the weight falls by the factor decay
    decay: factor at each milestone, or with over the whole change
    curve: with over, the way from weight to weight * decay
    over: epochs from start until weight * decay is reached
    rise: epochs from start in which the weight rises
    rise_curve: how it rises
    rise_from: of the linear rise, the number of its first step
    """

    weight: Annotated[float, Field(ge=0, le=MAX_WEIGHT)]
    start: Epoch = 0
    stop: Lasting | None = None
    milestones: Milestones = ()
    decay: Annotated[float, Field(ge=0, le=1000)] = 1.0
    curve: Curve = "step"
    over: Lasting | None = None
    rise: Lasting | None = None
    rise_curve: Rise = "exponential"
    rise_from: Literal[0, 1] = 0


# fields of a term besides its weight: its loss, the networks that it trains, and what they learn from
NETWORKS: dict[str, Any] = {
    "loss": (Text | None, None),
    "of": (Text | Annotated[list[Text], Field(min_length=1, max_length=100)] | None, None),
    "from": (Text, TEACHER),
}
SHARED = {*WeightFields.model_fields, *NETWORKS}  # the fields that every term has


@cached
def term_model(loss: str) -> type[BaseModel]:
    """The schema of the terms of one loss. Raises `BadParams` for an option with an unusable name or type."""
    fields: dict[str, Any] = dict(NETWORKS)
    for option, (annotation, default) in signature.options(loss).items():
        if option in SHARED:
            raise BadParams(
                f"loss {loss}: its option {option!r} has the name of a term's field; choose another"
            )
        fields[option] = (type_of(annotation, f"loss {loss}: option {option!r}"), default)
    return pydantic.create_model(f"{loss} term", __base__=WeightFields, **fields)
