"""The sections of params.yaml: types, bounds and defaults. Every number has an upper bound.

Epochs are whole here: `epochs.py` has turned shares of the training into whole numbers before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Strict,
    Tag,
)
from pydantic_core import PydanticCustomError

from cdkd.config.epochs import MAX_EPOCHS
from cdkd.config.faults import suggest
from cdkd.config.option_types import SMALLEST
from cdkd.config.presets import PRESETS
from cdkd.core import own_code
from cdkd.core.schedule import Recipe
from cdkd.data import own_sources
from cdkd.models import names

SOURCES = ("digits", "cifar10", "cifar100", "fashion-mnist", "svhn", "folder")
MAX_PIXELS = 2048  # of an image's side
MAX_BATCH = 65_536
MAX_RANKS = 1024
MAX_RATE = 100.0  # of the learning rate
MAX_SEED = 2**32 - 1
MAX_VALIDATION = 0.9  # a training split of some images must be left
MAX_LISTED = 1000  # of seeds, milestones, choices
MAX_TRIALS = 10_000
MAX_GENERATION = 256


def _epoch(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_EPOCHS:
        raise PydanticCustomError(
            "epoch",
            f"expected a whole number of epochs up to {MAX_EPOCHS}, or a share of the training such as 0.5",
        )
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PydanticCustomError("number", "expected a number")
    return value


def _network(value: str) -> str:
    if (fault := names.fault(value)) is not None:
        raise PydanticCustomError("network", "{fault}", {"fault": fault})
    return value


def _preset(value: str) -> str:
    if value not in PRESETS:
        raise PydanticCustomError("preset", f"expected one of {', '.join(PRESETS)}{suggest(value, PRESETS)}")
    return value


def _source(value: str) -> str:
    if value not in SOURCES and not own_sources.exists(value):
        known = [*SOURCES, *own_code.names(own_code.SOURCES)]
        raise PydanticCustomError("unknown", "unknown source", {"known": known})
    return value


Epoch = Annotated[int, BeforeValidator(_epoch)]
Milestones = Annotated[tuple[Epoch, ...], Strict(False), Field(max_length=MAX_LISTED)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Pixels = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
Number = Annotated[Any, BeforeValidator(_number)]  # whole or not, as it was written
Text = Annotated[str, Field(max_length=500)]
Network = Annotated[str, AfterValidator(_network)]
Preset = Annotated[str, AfterValidator(_preset)]
Source = Annotated[str, AfterValidator(_source)]
Texts = Annotated[tuple[Text, ...], Strict(False), Field(max_length=MAX_LISTED)]
Channels = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...], Strict(False), Field(min_length=1, max_length=3)
]
Spreads = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], ...], Strict(False), Field(min_length=1, max_length=3)
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Normalisation(Section):
    """Per channel, on the scale of 0 to 1.

    mean, std: a number for each channel, or one for all
    """

    mean: Channels
    std: Spreads


def _measured(value: Any) -> Any:
    if value != "measured":
        raise PydanticCustomError("measured", "expected measured, or a section with mean and std")
    return value


def _given_or_measured(value: Any) -> str:
    return "tag:given" if isinstance(value, dict | Normalisation) else "tag:measured"


class Data(Section):
    """Where the images come from and how they are split.

    source: a known data set (digits, cifar10, cifar100, fashion-mnist, svhn), folder, or a file of sources/
    paths: source folder's directories or archives, relative to params.yaml
    size: shorter side and square crop; without it all images must be of one size
    uncropped: store images of a folder as they are, for random crops; evaluation resizes them to `size`
    train_images: number of training images to keep, drawn by class and seed
    test: share of the images that becomes the test split, for a folder without one
    validation: share of the training images on which a search evaluates its trials
    seed: of every draw above
    normalisation: measured on the training images, or a section with mean and std
    """

    source: Source
    paths: Texts = ()
    size: Pixels | None = None
    uncropped: bool = False
    train_images: Annotated[PositiveInt, Field(le=1_000_000_000)] | None = None
    test: Annotated[float, Field(gt=0, le=MAX_VALIDATION)] | None = None
    validation: Annotated[float, Field(ge=0, le=MAX_VALIDATION)] = 0.1
    seed: Seed = 0
    normalisation: Annotated[
        Annotated[str, BeforeValidator(_measured), Tag("tag:measured")]
        | Annotated[Normalisation, Tag("tag:given")],
        Discriminator(_given_or_measured),
    ] = "measured"


class Augmentation(Section):
    """What happens to a training batch: crop (after padding) or resized_crop, then flip.

    resized_crop: side of a random resized crop; evaluation takes the centre
    """

    pad: Annotated[int, Field(ge=0, le=MAX_PIXELS)] = 0
    padding: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False
    resized_crop: Pixels | None = None


class Training(Section):
    """A recipe: an optimiser and its learning rate over time. Epochs count from 0.

    preset: a paper's recipe, on top of which the other values go
    recipe: its name in reports; without one it is named after the preset
    learning_rate: the highest, which the schedule multiplies by a factor
    momentum: of sgd
    weight_decay: of all parameters, BatchNorm's and biases too; in adamw apart from the gradient
    nesterov: of sgd
    milestones: of schedule step; milestone m applies in epoch m
    decay: factor of the learning rate at each milestone, of schedule step
    warmup: epochs in which the rate rises, learning_rate * (epoch + 1) / (warmup + 1); in one_cycle by half a
        cosine
    precision: of the networks; losses and weights are float32 in either
    engine: compile runs the networks by torch.compile
    momentum_at_milestones: reset starts the momentum anew at every milestone (attention transfer, CTKD)
    optimiser: sgd with momentum, or adamw
    betas: of adamw
    epsilon: of adamw
    schedule: step falls at the milestones; cosine and linear fall from the end of the warm-up to that of the
        training; one_cycle rises and falls by half cosines (Smith, arXiv 1708.07120; momentum stays as it is)
    rate_per: epoch, or step: schedule and warm-up change the rate in every step; milestones stay epochs
    start_factor: of the learning rate, where one_cycle begins
    end_factor: of the learning rate, towards which cosine and linear fall, and with which one_cycle ends
    clip: largest norm of a step's gradient over all parameters, to which a larger one is scaled down; 0: none
    ranks: processes that train together, each on its share of every batch; on GPUs, one on each
    """

    preset: Preset | None = None
    recipe: Text = "unnamed"
    epochs: Annotated[PositiveInt, Field(le=MAX_EPOCHS)]
    batch: Annotated[int, Field(ge=2, le=MAX_BATCH)] = 64  # BatchNorm needs two images
    learning_rate: Annotated[PositiveFloat, Field(ge=SMALLEST), Field(le=MAX_RATE)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 5e-4
    nesterov: bool = False
    milestones: Milestones = ()
    decay: Annotated[PositiveFloat, Field(ge=SMALLEST), Field(le=1)] = 0.1
    warmup: Epoch = 0
    precision: Literal["float32", "bf16"] = "float32"
    engine: Literal["eager", "compile"] = "eager"
    augmentation: Augmentation = Augmentation()
    momentum_at_milestones: Literal["kept", "reset"] = "kept"
    optimiser: Literal["sgd", "adamw"] = "sgd"
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = (0.9, 0.999)
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    schedule: Literal["step", "cosine", "linear", "one_cycle"] = "step"
    rate_per: Literal["epoch", "step"] = "epoch"
    start_factor: Annotated[float, Field(ge=0, le=1)] = 0.04
    end_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    ranks: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1

    @property
    def resolved(self) -> Recipe:
        return Recipe.of(self.model_dump(exclude={"preset", "recipe"}))


class OtherTeacher(Section):
    """A teacher of methods that name it with the key `teacher`. It is trained with the main teacher's seeds.

    batchnorm: as in the section teacher
    weights, sha256: a .safetensors file to use instead of training one, and its digest
    untrained: keep the initial weights, as a control
    training: what differs from the students' recipe
    """

    network: Annotated[Network, Field(json_schema_extra={"else": "the main teacher's"})]
    batchnorm: Literal["eval", "train"] = "eval"
    weights: Text | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    untrained: bool = False
    training: Annotated[Training, Field(json_schema_extra={"else": "the students'"})]


class Teacher(OtherTeacher):
    """The network that is learned from.

    batchnorm: mode of the teacher's BatchNorm while the students train; the released code of CD has train
    weights: a .safetensors file to use instead of training a teacher
    sha256: the digest of that file
    untrained: keep the initial weights, as a control
    training: what differs from the students' recipe
    seeds: several teachers of one recipe, each with students of its own, in place of seed
    cache: gigabytes of disk for its outputs, kept from run to run; 0: none. Changes no result
    others: further teachers by name, for methods with the key `teacher`
    """

    network: Network
    seed: Seed = 0
    seeds: Annotated[tuple[Seed, ...], Strict(False), Field(max_length=MAX_LISTED)] = ()
    cache: Annotated[float, Field(ge=0, le=100_000)] = 4.0
    others: Annotated[dict[str, OtherTeacher], Field(max_length=100)] = {}

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return self.seeds or (self.seed,)


class Student(Section):
    """The network that learns.

    weights, sha256: a .safetensors file that training starts from, and its digest; it may lack the classifier
    """

    network: Network
    weights: Text | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    def start(self, root: Path) -> Path | None:
        """The file; root: the project's folder."""
        return None if self.weights is None else root / self.weights


class Parameter(Section):
    """One number that a search may choose.

    Its name is the number's place (`cd.weight`), unless `sets` names other places or the choices are named.

    sets: places that take the number, where its name is not one
    low, high: the range, whole where the number is
    log: whether the range is drawn by its logarithm
    step: between the range's numbers
    choices: instead of a range; values, or named changes of the method
    """

    sets: Texts = ()
    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Number | None = None
    choices: Any = None


class Study(Section):
    """A search: from a method's numbers, in a space around them, judged on the validation split.

    base: the method whose own numbers are trial 0
    method: the name under which the best setting is trained with all seeds; without it that is not done
    space: the numbers, each by its place in the method, such as cd.weight
    sampler: tpe is Optuna's; a grid tries every combination of choices and steps
    pruner: median ends a trial that is worse than the median of earlier ones at the same epoch
    warmup: epochs before a trial may be pruned; without it half of them
    trials: how many
    generation: trials that are chosen at once and trained side by side
    epochs: of a trial; every other epoch in method and recipe is scaled. Without it the recipe's
    seeds: of a trial; its value is their mean
    seed: of the sampler
    minutes: no further generation after so long
    storage: a database's address; without it a file in .cdkd
    """

    base: Text
    method: Text | None = None
    space: Annotated[dict[str, Parameter], Field(max_length=100)]
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "none"] = "median"
    warmup: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] | None = None
    trials: Annotated[PositiveInt, Field(le=MAX_TRIALS)] = 32
    generation: Annotated[PositiveInt, Field(le=MAX_GENERATION)] = 8
    epochs: Annotated[PositiveInt, Field(le=MAX_EPOCHS)] | None = None
    seeds: Annotated[tuple[Seed, ...], Strict(False), Field(min_length=1, max_length=MAX_LISTED)] = (0,)
    seed: Seed = 0
    minutes: Annotated[PositiveFloat, Field(le=1_000_000)] | None = None
    storage: Text | None = None


class Published(Section):
    """Which rows of published.csv are shown together with ours.

    source: the beginning of the source to prefer, such as "HobbitLong/RepDistiller"
    methods: our name -> published.csv's
    """

    dataset: Text
    teacher: Text
    student: Text
    source: Text = ""
    methods: Mapping[str, str] = Field(default_factory=dict)


class Report(Section):
    """The tables' rows.

    ablation, comparison: methods, in the order of the rows; without them all. A method of neither is in the
        comparison
    """

    ablation: Texts = ()
    comparison: Texts = ()
    published: Published | None = None
