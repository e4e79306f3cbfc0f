"""The sections of params.yaml and the terms of a method: types, bounds and defaults, all in one place."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

import pydantic
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
)

from cdkd.core.errors import BadParams
from cdkd.core.schedule import Curve, Recipe
from cdkd.losses import signature

Epochs = Annotated[tuple[NonNegativeInt, ...], Strict(False)]
Triple = Annotated[tuple[PositiveFloat, ...], Strict(False), Field(min_length=1, max_length=3)]

MOST_EPOCHS = 100_000  # schedules are walked, epoch by epoch
MOST_PIXELS = 2048  # of an image's side


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Normalisation(Section):
    """Per channel, on the scale of 0 to 1."""

    mean: Triple
    std: Triple


class Data(Section):
    """Where the images come from and how they are split."""

    source: Literal["digits", "cifar10", "cifar100", "fashion-mnist", "svhn", "folder"]
    paths: Annotated[
        tuple[str, ...], Strict(False)
    ] = ()  # folder: directories or zips, relative to params.yaml
    size: Annotated[PositiveInt, Field(le=MOST_PIXELS)] | None = (
        None  # shorter side and square crop; without it all images must be of one size
    )
    train_images: PositiveInt | None = None  # keep so many training images: a stratified, seeded draw
    validation: Annotated[float, Field(ge=0, lt=1)] = (
        0.1  # share of the training images that a search is judged on
    )
    seed: NonNegativeInt = 0
    normalisation: Literal["measured"] | Normalisation = "measured"


class Augmentation(Section):
    """What happens to a training batch: crop (after padding) or resized_crop, then flip."""

    pad: NonNegativeInt = 0
    padding: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False
    resized_crop: PositiveInt | None = None  # side of a random resized crop; evaluation takes the centre


class Training(Section):
    """A recipe: SGD with momentum and a step schedule. Epochs count from 0: a milestone m is in force in epoch m."""

    recipe: str = "unnamed"
    epochs: Annotated[PositiveInt, Field(le=MOST_EPOCHS)]
    batch: PositiveInt = 64
    learning_rate: PositiveFloat = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    nesterov: bool = False
    milestones: Epochs = ()
    decay: PositiveFloat = 0.1
    warmup: NonNegativeInt = 0  # epochs of linear warm-up: learning_rate * (epoch + 1) / (warmup + 1)
    precision: Literal["float32", "bf16"] = (
        "float32"  # of the networks; losses and weights are float32 in either
    )
    engine: Literal["eager", "compile"] = (
        "eager"  # compile: the students' and the teacher's passes by torch.compile
    )
    augmentation: Augmentation = Augmentation()

    @property
    def resolved(self) -> Recipe:
        return Recipe.of(self.model_dump(exclude={"recipe"}))


class Teacher(Section):
    network: str
    seed: NonNegativeInt = 0
    batchnorm: Literal["eval", "train"] = "eval"  # "train": the released code of CD, a named deviation
    weights: str | None = None  # a .safetensors file to use instead of training one
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None  # of that file
    cache: NonNegativeFloat = (
        4.0  # gigabytes of disk for its outputs, kept from run to run; 0: none. Changes no result
    )
    training: Training


class Student(Section):
    network: str


class Parameter(Section):
    """One number that a search may choose; its name is the place of the number (`cd.weight`), unless `sets` names others.

    A range has low and high, whole where the number is; choices are values, or named changes of the method.
    """

    sets: Annotated[tuple[str, ...], Strict(False)] = ()
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    choices: list[Any] | dict[str, dict[str, dict[str, Any]]] | None = None


class Study(Section):
    """A search: from a method's numbers, in a space around them, judged on the validation split."""

    base: str  # the method whose own numbers are trial 0
    method: str | None = (
        None  # the name under which the best setting is trained with all seeds; without it that is not done
    )
    space: dict[str, Parameter]
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "none"] = "median"
    warmup: NonNegativeInt | None = None  # epochs before a trial may be pruned; without it half of them
    trials: PositiveInt = 32
    generation: PositiveInt = 8  # trials that are chosen at once and trained side by side
    epochs: PositiveInt | None = (
        None  # of a trial; every other epoch in method and recipe is scaled. Without it the recipe's
    )
    seeds: Annotated[tuple[NonNegativeInt, ...], Strict(False), Field(min_length=1)] = (
        0,
    )  # a trial's value is their mean
    seed: NonNegativeInt = 0  # of the sampler
    minutes: PositiveFloat | None = None  # no further generation after so long
    storage: str | None = None  # a database's address; without it a file in .cdkd


class Published(Section):
    """Which rows of published.csv stand beside ours."""

    dataset: str
    teacher: str
    student: str
    source: str = ""  # beginning of the source to prefer, e.g. "HobbitLong/RepDistiller"
    methods: Mapping[str, str] = Field(default_factory=dict)  # our name -> published.csv's


class Report(Section):
    ablation: Annotated[tuple[str, ...], Strict(False)] = ()
    comparison: Annotated[tuple[str, ...], Strict(False)] = ()
    published: Published | None = None


TYPES = vars(typing) | {
    name: getattr(pydantic, name)
    for name in pydantic.__all__
    if not name.startswith("_") and name[0].isupper()
}


class Schedule(Section):
    """The part of a term that every loss has: its weight over time."""

    weight: NonNegativeFloat
    start: NonNegativeInt = 0
    stop: PositiveInt | None = None
    milestones: Epochs = ()
    decay: NonNegativeFloat = 1.0
    curve: Curve = "step"  # with over, the way from weight to weight * decay
    over: PositiveInt | None = None  # epochs from start until weight * decay is reached


@cache
def term_model(loss: str) -> type[BaseModel]:
    """The schema of one term: the weight's fields and the loss's own options."""
    fields: dict[str, Any] = {}
    for option, (annotation, default) in signature.options(loss).items():
        if option in Schedule.model_fields:
            raise BadParams(
                f"loss {loss}: its option {option!r} has the name of a weight's field; choose another"
            )
        fields[option] = (
            eval(annotation, {"__builtins__": __builtins__}, TYPES),
            default,
        )  # the project's own source, not input
    return pydantic.create_model(f"{loss} term", __base__=Schedule, **fields)
