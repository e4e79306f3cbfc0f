"""Checks of values from another machine, and of the configuration of a run: types and bounds. No library.

Each check raises `ValueError` in one line: place, value, what was expected. Its caller names the file.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cdkd.core.group import Group
from cdkd.core.names import EXPECTED, is_name
from cdkd.core.run_spec import method_of
from cdkd.core.schedule import Augmentation, Curve, Inactive, Recipe, Rise, Term
from cdkd.losses import signature

SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_EPOCHS, MAX_BATCH, MAX_PIXELS, MAX_SEED = 100_000, 65_536, 2048, 2**32 - 1
MAX_CLASSES, MAX_RANKS = 1_000_000, 1024
# as `config` bounds them
MAX_WEIGHT, MAX_DECAY, LARGEST, MAX_TEXT, MAX_SHARE = 1e12, 1000, 1_000_000_000, 200, 0.9
NUMBERS: Mapping[str, tuple[float, float]] = {  # of a recipe, as `config.schema.Training` bounds them
    "learning_rate": (0, 100),
    "momentum": (0, 1),
    "weight_decay": (0, 10),
    "decay": (0, 1),
    "epsilon": (0, 1),
    "start_factor": (0, 1),
    "end_factor": (0, 1),
    "clip": (0, 1e6),
}
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "precision": ("float32", "bf16"),
    "engine": ("eager", "compile"),
    "momentum_at_milestones": ("kept", "reset"),
    "optimiser": ("sgd", "adamw"),
    "schedule": ("step", "cosine", "linear", "one_cycle"),
    "rate_per": ("epoch", "step"),
}


def name(place: str, value: Any) -> None:
    if not is_name(value):
        raise ValueError(f"{place} {shown(value)}; expected {EXPECTED}")


def integer(place: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{place} {shown(value)}; expected a whole number from {low} to {high}")


def number(place: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    largest = sys.float_info.max  # an int may be larger
    plain = isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest
    if not plain or not low <= value <= high:
        bounds = "" if math.isinf(high) else f" from {low:g} to {high:g}"
        raise ValueError(f"{place} {shown(value)}; expected a number{bounds}")


def section(place: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{place} {shown(value)}; expected a section")


def boolean(place: str, value: Any) -> None:
    choice(place, value, (True, False))


def sha256(place: str, value: Any) -> None:
    if not isinstance(value, str) or SHA256.fullmatch(value) is None:
        raise ValueError(f"{place} {shown(value)}; expected a sha256 of 64 hexadecimal digits")


def configuration(config: Any, *, teacher: bool) -> None:
    """Check a run's configuration.

    teacher: whether it is the teacher's, which may be weights without a training
    """
    section("config", config)
    data = config["data"]
    section("data", data)
    integer("data.classes", data["classes"], 2, MAX_CLASSES)
    if not isinstance(data["image"], list) or len(data["image"]) != 3:
        raise ValueError(f"data.image {shown(data['image'])}; expected height, width and channels")
    for size in data["image"]:
        integer("data.image", size, 1, MAX_PIXELS)
    sha256("data.digest", data["digest"])
    choice("data.judged_on", data["judged_on"], ("test", "validation"))
    text("network", config["network"])
    integer("seed", config["seed"], 0, MAX_SEED)
    if config["training"] is None and teacher:
        if "weights_sha256" in config:  # an untrained teacher has no file
            sha256("weights_sha256", config["weights_sha256"])
    else:
        recipe(config["training"])
    if not teacher:
        section("teacher", config["teacher"])
        text("teacher.network", config["teacher"]["network"])
        choice("teacher.batchnorm", config["teacher"]["batchnorm"], ("eval", "train"))
    elif config["teacher"] is not None:
        raise ValueError(f"teacher {shown(config['teacher'])}; expected nothing for the teacher's own run")
    if "start" in config:
        section("start", config["start"])
        text("start.network", config["start"]["network"])
        sha256("start.sha256", config["start"]["sha256"])
    section("method", config["method"])
    found = method_of(config)
    choice("inactive", found.inactive, get_args(Inactive))
    for key, term in found.items():
        name("method", key)
        _term(f"method.{key}", term)
    if found.group is not None:
        _group(found.group)


def _term(place: str, term: Term) -> None:
    weight = term.weight
    number(f"{place}.weight", weight.value, 0, MAX_WEIGHT)
    number(f"{place}.decay", weight.decay, 0, MAX_DECAY)
    integer(f"{place}.start", weight.start, 0, MAX_EPOCHS)
    for milestone in weight.milestones:
        integer(f"{place}.milestones", milestone, 0, MAX_EPOCHS)
    for key in ("stop", "over", "rise"):
        if getattr(weight, key) is not None:
            integer(f"{place}.{key}", getattr(weight, key), 1, MAX_EPOCHS)
    choice(f"{place}.curve", weight.curve, get_args(Curve))
    choice(f"{place}.rise_curve", weight.rise_curve, get_args(Rise))
    integer(f"{place}.rise_from", weight.rise_from, 0, 1)
    for network in term.of or ():
        name(f"{place}.of", network)
    name(f"{place}.from", term.source)
    section(f"{place}.options", term.options)
    known = signature.options(term.loss) if signature.exists(term.loss) else term.options
    for key, value in term.options.items():
        if key not in known:
            raise ValueError(f"{place}.{key}; expected an option of {term.loss}")
        _plain(f"{place}.{key}", value)


def _group(group: Group) -> None:
    for key, network in group.networks.items():
        name("group.networks", key)
        text(f"group.networks.{key}", network)
    choice("group.deployed", group.deployed, tuple(group.networks))
    integer("group.views", group.views, 1, max(1, len(group.networks)))
    if group.shared is not None:
        integer("group.shared", group.shared, 0, 100)
    if group.ema is not None:
        number("group.ema", group.ema, 0, 1)
    for key, hint in get_type_hints(Group).items():
        if get_origin(hint) is Literal:
            choice(f"group.{key}", getattr(group, key), get_args(hint))


def _plain(place: str, value: Any) -> None:
    """An option's value: a number within bounds, a text, true or false, nothing, or a list of such."""
    if isinstance(value, list):
        for one in value:
            _plain(place, one)
    elif isinstance(value, str):
        text(place, value)
    elif value is not None and not isinstance(value, bool):
        number(place, value, -LARGEST, LARGEST)


def text(place: str, value: Any, most: int = MAX_TEXT) -> None:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= most:
        raise ValueError(f"{place} {shown(value)}; expected a text of 1 to {most} characters")


def source(data: Any) -> None:
    """The section `data` of params.yaml."""
    section("data", data)
    text("data.source", data["source"])
    if not isinstance(data["paths"], list):
        raise ValueError(f"data.paths {shown(data['paths'])}; expected a list")
    for path in data["paths"]:
        text("data.paths", path, 500)
    for key, most in (("size", MAX_PIXELS), ("train_images", LARGEST)):
        if data[key] is not None:
            integer(f"data.{key}", data[key], 1, most)
    for key in ("test", "validation"):
        if data[key] is not None or key == "validation":
            number(f"data.{key}", data[key], 0, MAX_SHARE)
    boolean("data.uncropped", data["uncropped"])
    integer("data.seed", data["seed"], 0, MAX_SEED)
    if data["normalisation"] != "measured":
        section("data.normalisation", data["normalisation"])
        for key in ("mean", "std"):
            for value in data["normalisation"][key]:
                number(f"data.normalisation.{key}", value, 0, 1)


def recipe(values: Any) -> None:
    section("training", values)
    found = Recipe.of(values)
    integer("training.epochs", found.epochs, 1, MAX_EPOCHS)
    integer("training.batch", found.batch, 2, MAX_BATCH)
    integer("training.warmup", found.warmup, 0, MAX_EPOCHS)
    integer("training.ranks", found.ranks, 1, MAX_RANKS)
    for milestone in found.milestones:
        integer("training.milestones", milestone, 0, MAX_EPOCHS)
    for beta in found.betas:
        number("training.betas", beta, 0, 1)
    for key, bounds in NUMBERS.items():
        number(f"training.{key}", getattr(found, key), *bounds)
    for key, choices in CHOICES.items():
        choice(f"training.{key}", getattr(found, key), choices)
    choice("training.nesterov", found.nesterov, (True, False))
    augmentation: Augmentation = found.augmentation
    integer("training.augmentation.pad", augmentation.pad, 0, MAX_PIXELS)
    choice("training.augmentation.padding", augmentation.padding, ("zeros", "reflect"))
    choice("training.augmentation.flip", augmentation.flip, (True, False))
    if augmentation.resized_crop is not None:
        integer("training.augmentation.resized_crop", augmentation.resized_crop, 1, MAX_PIXELS)


def choice(place: str, value: Any, choices: tuple[Any, ...]) -> None:
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{place} {shown(value)}; expected {' or '.join(map(str, choices))}")


def shown(value: Any) -> str:
    """In one short line; control characters are escaped."""
    escaped = ascii(value)
    return escaped if len(escaped) <= 60 else f"{escaped[:57]}..."
